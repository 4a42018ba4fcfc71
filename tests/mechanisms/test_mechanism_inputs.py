"""What a mechanism makes of its inputs: absent tensors, lower ranks, heads, and NaN."""

import math

import pytest
import torch

from service.mechanisms import MECHANISMS
from service.mechanisms import reference as formulas
from tests.builders import analyse, qkv
from tests.mechanisms.variants import (
    ALL,
    BATCH,
    D_K,
    HEADS,
    KEYS,
    OUTPUT_DIM,
    QUERIES,
    double,
    given,
)

MATRICES = ["output", "weights", "logits", "scores"]
CLOSE = {"rtol": 1e-11, "atol": 1e-12}

each_variant = pytest.mark.parametrize("variant", ALL.values(), ids=ALL)


SELF = {
    "scaled_dot_product": {},
    "additive": {
        "parameters": given(
            query_weight=double(4, D_K, seed=1),
            key_weight=double(4, D_K, seed=2),
            score_vector=double(4, seed=3),
        )
    },
    "multiplicative": {
        "score": "general",
        "parameters": given(weight=double(D_K, D_K, seed=1)),
    },
    "multi_head": {
        "heads": 2,
        "parameters": given(
            query_weight=double(6, D_K, seed=1),
            key_weight=double(6, D_K, seed=2),
            value_weight=double(8, D_K, seed=3),
            output_weight=double(5, 8, seed=4),
        ),
    },
}


@pytest.mark.parametrize("kind", MECHANISMS)
def test_an_absent_key_is_the_query_and_an_absent_value_the_key(kind):
    """Self-attention answers as the same tensor given three times; two times for the value."""
    mechanism = {"kind": kind, **SELF[kind]}
    lead = (BATCH,) if MECHANISMS[kind].undivided else (BATCH, HEADS)
    query, key = double(*lead, QUERIES, D_K, seed=5), double(*lead, KEYS, D_K, seed=6)
    for short, whole in (((query,), (query,) * 3), ((query, key), (query, key, key))):
        found, expected = (
            analyse(inputs=qkv(*given), mechanism=mechanism, include=MATRICES).tensors
            for given in (short, whole)
        )
        for name in MATRICES:
            torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-15, msg=name)


@each_variant
def test_lower_ranks_are_one_item(variant):
    """Inputs without a batch axis, or a head axis, are one item, or one head."""
    query, key, value = variant.operands()
    whole = analyse(**variant.request((query, key, value)), include=MATRICES).tensors
    one, heads = [t[1] for t in (query, key, value)], slice(None)
    if not variant.undivided:
        one, heads = [t[0] for t in one], slice(0, 1)
    found = analyse(**variant.request(tuple(one)), include=MATRICES).tensors
    for name in MATRICES:
        torch.testing.assert_close(found[name], whole[name][1:2, heads], **CLOSE, msg=name)
    if variant.undivided:
        assert found["output"].shape == (1, 1, QUERIES, OUTPUT_DIM)


def test_the_formula_of_the_projections_splits_heads_as_the_contract_says():
    """Head h of x Wᵀ is rows h·dim … (h + 1)·dim of W: view(batch, N, heads, dim), transposed."""
    tensor, weight, bias = double(2, 3, 5, seed=1), double(8, 5, seed=2), double(8, seed=3)
    split = formulas.heads_of(tensor, weight, bias, 4)
    assert split.shape == (2, 4, 3, 2)
    for head in range(4):
        part = slice(2 * head, 2 * head + 2)
        expected = torch.einsum("bli,oi->blo", tensor, weight[part]) + bias[part]
        torch.testing.assert_close(split[:, head], expected, **CLOSE)


def test_nan_at_a_forbidden_key_reaches_no_output():
    """Where NaN is computed with, one in a hidden key leaks into no mechanism's output."""
    for name, variant in ALL.items():
        query, key, value = variant.operands()
        key[..., -1, :] = math.nan
        lengths = {"key_lengths": torch.tensor([KEYS - 1, KEYS - 1])}
        found = analyse(
            **variant.request((query, key, value)),
            mask=lengths,
            compute={"nonfinite": "propagate"},
            include=MATRICES,
        )
        key[..., -1, :] = 0.0
        expected = variant.expected((query, key, value), mask=lengths)
        for matrix in ("output", "weights"):
            torch.testing.assert_close(
                found.tensors[matrix], expected[matrix], **CLOSE, msg=f"{name} {matrix}"
            )
