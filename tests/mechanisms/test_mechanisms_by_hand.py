"""One case of each mechanism, small enough to be worked out on paper."""

import math

import pytest
import torch

from service.mechanisms import MECHANISMS
from tests.builders import analyse, qkv
from tests.mechanisms.variants import given

LN2, LN3 = math.log(2), math.log(3)
T1, T2 = math.tanh(1.0), math.tanh(2.0)


def tensor(numbers):
    return torch.tensor(numbers, dtype=torch.float64)


# Scores 0 and 2 ln 3, scale 1/sqrt(4): logits 0 and ln 3, so weights 1/4 and 3/4.
SCALED = {
    "mechanism": {"kind": "scaled_dot_product"},
    "query": [[2.0, 0.0, 0.0, 0.0]],
    "key": [[0.0, 5.0, 0.0, 0.0], [LN3, 0.0, 7.0, 0.0]],
    "value": [[4.0, 0.0, 8.0], [0.0, 4.0, -8.0]],
    "scores": [[0.0, 2 * LN3]],
    "weights": [[0.25, 0.75]],
    "output": [[1.0, 3.0, -4.0]],
}
# Hidden units, key by key: tanh(W_q q + W_k k + b) with W_q q = (1, −1), b = (0, 1):
# key 0: (1, −1) + (0, 0) + (0, 1) = (1, 0) → (T1, 0); key 1: (1, −1) + (1, 1) + (0, 1) = (2, 1)
# → (T2, T1). v = (ln 2 / T1, 0): scores ln 2 and ln 2 · T2/T1.
ADDITIVE = {
    "mechanism": {
        "kind": "additive",
        "parameters": given(
            query_weight=tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
            key_weight=tensor([[1.0], [1.0]]),
            score_vector=tensor([LN2 / T1, 0.0]),
            bias=tensor([0.0, 1.0]),
        ),
    },
    "query": [[1.0, -1.0, 9.0]],
    "key": [[0.0], [1.0]],
    "value": [[1.0], [0.0]],
    "scores": [[LN2, LN2 * T2 / T1]],
    "weights": [[2 / (2 + 2 ** (T2 / T1)), 2 ** (T2 / T1) / (2 + 2 ** (T2 / T1))]],
    "output": [[2 / (2 + 2 ** (T2 / T1))]],
}
# q = (1, 2): qᵀ W = (1·1 + 2·0, 1·0 + 2·1, 1·(−1) + 2·0) = (1, 2, −1). Key 0 = (0, 0, 0): 0;
# key 1 = (ln 2, 0, 0): ln 2; key 2 = (0, ln 2, ln 2): 2 ln 2 − ln 2 = ln 2. Weights 1 : 2 : 2.
GENERAL = {
    "mechanism": {
        "kind": "multiplicative",
        "score": "general",
        "parameters": given(weight=tensor([[1.0, 0.0, -1.0], [0.0, 1.0, 0.0]])),
    },
    "query": [[1.0, 2.0]],
    "key": [[0.0, 0.0, 0.0], [LN2, 0.0, 0.0], [0.0, LN2, LN2]],
    "value": [[5.0], [10.0], [0.0]],
    "scores": [[0.0, LN2, LN2]],
    "weights": [[0.2, 0.4, 0.4]],
    "output": [[5.0]],
}
# Unscaled: 1·ln 3 + 1·0 = ln 3 and −ln 3 + ln 3 = 0.
DOT = {
    "mechanism": {"kind": "multiplicative"},
    "query": [[1.0, 1.0]],
    "key": [[LN3, 0.0], [-LN3, LN3]],
    "value": [[4.0], [8.0]],
    "scores": [[LN3, 0.0]],
    "weights": [[0.75, 0.25]],
    "output": [[5.0]],
}
# W [q; k] = q_0 + k_0 − k_1: 1 + 0 − 1 = 0 and 1 + 3 − 2 = 2; v = ln 2 / tanh 2: 0 and ln 2.
CONCAT = {
    "mechanism": {
        "kind": "multiplicative",
        "score": "concat",
        "parameters": given(
            weight=tensor([[1.0, 1.0, -1.0]]),
            score_vector=tensor([LN2 / T2]),
        ),
    },
    "query": [[1.0]],
    "key": [[0.0, 1.0], [3.0, 2.0]],
    "value": [[3.0], [6.0]],
    "scores": [[0.0, LN2]],
    "weights": [[1 / 3, 2 / 3]],
    "output": [[5.0]],
}
# Two heads of dimension 1. Head 0: q = x_0 = 1, k = y_0; head 1: q = 2 x_1 + 1 = 1, k = y_1.
# y = (0, ln 3), (ln 3, ln 3): head 0 scores 0, ln 3, weights 1/4, 3/4; head 1 scores ln 3, ln 3,
# weights 1/2, 1/2. Values of head 0: z = 4, 8 → 7; of head 1: −z → −6. Output (7 − 6, 7 + 2·6 + 1):
MULTI_HEAD = {
    "mechanism": {
        "kind": "multi_head",
        "heads": 2,
        "parameters": given(
            query_weight=tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]]),
            query_bias=tensor([0.0, 1.0]),
            key_weight=tensor([[1.0, 0.0], [0.0, 1.0]]),
            value_weight=tensor([[1.0], [-1.0]]),
            output_weight=tensor([[1.0, 1.0], [1.0, -2.0]]),
            output_bias=tensor([0.0, 1.0]),
        ),
    },
    "query": [[1.0, 0.0, 6.0]],
    "key": [[0.0, LN3], [LN3, LN3]],
    "value": [[4.0], [8.0]],
    "scores": [[[0.0, LN3]], [[LN3, LN3]]],
    "weights": [[[0.25, 0.75]], [[0.5, 0.5]]],
    "output": [[1.0, 20.0]],
}
CASES = {
    "scaled_dot_product": SCALED,
    "additive": ADDITIVE,
    "multiplicative: dot": DOT,
    "multiplicative: general": GENERAL,
    "multiplicative: concat": CONCAT,
    "multi_head": MULTI_HEAD,
}


def test_every_mechanism_is_worked_out_by_hand():
    """A mechanism without a case here has no number that a person has checked."""
    assert {name.split(":")[0] for name in CASES} == MECHANISMS.keys()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_case_on_paper(case):
    """Scores, weights and output are the numbers worked out above."""
    found = analyse(
        inputs=qkv(*(tensor(case[name]) for name in ("query", "key", "value"))),
        mechanism=case["mechanism"],
        include=["scores", "weights", "output"],
    ).tensors
    for name in ("scores", "weights", "output"):
        want = tensor(case[name])
        torch.testing.assert_close(
            found[name].view(want.shape), want, rtol=1e-14, atol=1e-14, msg=name
        )
