"""The scale that grows with the logarithm of the visible keys."""

import math

import pytest
import torch

from tests.builders import analyse, given_logits, normal, qkv
from tests.mechanisms.variants import ALL, HEADS, KEYS, MASKS, QUERIES, visible

MATRICES = ["output", "weights", "logits", "scores"]
BASE = 5.0
SCALE = {"kind": "log_length", "base": BASE}


def row_scale(default, mask):
    """Default · ln n / ln base of every row (batch, heads, N, 1), n counted pair by pair."""
    n = visible(mask).sum(-1, keepdim=True).clamp(min=1).double()
    return default * n.log() / math.log(BASE)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("variant", ALL.values(), ids=ALL)
def test_every_mechanism_scales_a_row_by_its_visible_keys(variant, mask):
    """Scores × default × ln n / ln base, before softcap, bias and masks."""
    operands = variant.operands()
    request = variant.request(operands, scale=SCALE, softcap=2.0)
    found = analyse(**request, mask=mask, include=MATRICES)
    scale = row_scale(variant.scale, mask)
    expected = variant.expected(operands, mask=mask, scale=scale, softcap=2.0)
    for name in MATRICES:
        torch.testing.assert_close(
            found.tensors[name], expected[name], rtol=1e-11, atol=1e-12, msg=name
        )


def test_at_base_keys_it_is_the_default():
    """N = base: the same bytes as without it, in float32 too."""
    inputs = qkv(normal(2, 3, 11, 8), normal(2, 3, 7, 8, seed=1), normal(2, 3, 7, 5, seed=2))
    scale = {"kind": "log_length", "base": float(KEYS)}
    own = analyse(inputs=inputs, mechanism={"scale": scale}, include=["weights"])
    default = analyse(inputs=inputs, include=["weights"])
    torch.testing.assert_close(
        own.tensors["weights"], default.tensors["weights"], rtol=1e-6, atol=0
    )


def scaled_queries(query, mask):
    """Queries that meet the default scale as the given ones meet their row's."""
    return query * row_scale(1.0, mask)


@pytest.mark.parametrize("mask", [MASKS["causal"], MASKS["allowed"]], ids=["causal", "allowed"])
def test_gradients_and_margins_are_those_of_scaled_queries(mask):
    """Scaling a row of scores is scaling its query: dL/dq = scale · dL/d(scale q)."""
    variant = ALL["scaled_dot_product: none"]
    query, key, value = variant.operands()
    include = ["diagnostics", "row_diagnostics", "flip_margin", {"name": "gradients", "seed": 3}]
    own = analyse(
        inputs=qkv(query, key, value), mechanism={"scale": SCALE}, mask=mask, include=include
    )
    plain = analyse(inputs=qkv(scaled_queries(query, mask), key, value), mask=mask, include=include)
    factor = row_scale(1.0, mask).squeeze(-1)
    margin = own.rows["flip_margin"] * factor
    torch.testing.assert_close(
        margin, plain.rows["flip_margin"], rtol=1e-10, atol=1e-13, equal_nan=True
    )
    for name in ("key", "value"):
        torch.testing.assert_close(
            own.gradients.inputs[name], plain.gradients.inputs[name], rtol=1e-10, atol=1e-14
        )
    for name in ("entropy", "logit_variance", "jacobian_trace"):
        torch.testing.assert_close(
            own.rows[name], plain.rows[name], rtol=1e-10, atol=1e-12, equal_nan=True
        )


def test_score_figures_are_those_before_the_scale():
    """Score mean and variance do not depend on the scale of the row."""
    variant = ALL["scaled_dot_product: none"]
    mask = MASKS["causal"]
    operands = variant.operands()
    own = analyse(**variant.request(operands, scale=SCALE), mask=mask, include=["row_diagnostics"])
    plain = analyse(**variant.request(operands), mask=mask, include=["row_diagnostics"])
    for name in ("score_mean", "score_variance", "score_max_abs"):
        torch.testing.assert_close(
            own.rows[name], plain.rows[name], rtol=1e-11, atol=1e-12, equal_nan=True
        )


def test_theory_knows_the_scale_of_each_row():
    """The entropy predicted is that of the same rows with scaled queries, seeded inputs."""
    inputs = {"kind": "seeded", "batch": 3, "heads": 4, "query_length": 32, "d_k": 64}
    found = analyse(
        inputs=inputs,
        mechanism={"scale": {"kind": "log_length", "base": 2.0}},
        mask={"causal": "upper_left"},
        include=["theory"],
    )
    entropy = found.theory.entropy
    assert abs(entropy.z) <= 4
    assert (
        entropy.predicted
        < analyse(
            inputs=inputs, mask={"causal": "upper_left"}, include=["theory"]
        ).theory.entropy.predicted
    )


def test_a_row_of_one_key_has_scale_0():
    """Ln 1 = 0: the first row of a causal mask has weight 1 and a finite gradient."""
    found = analyse(
        inputs=qkv(normal(QUERIES, 4)),
        mechanism={"scale": SCALE},
        mask={"causal": "upper_left"},
        include=["weights", "logits", {"name": "gradients", "seed": 0}],
    )
    assert found.tensors["weights"][0, 0, 0].tolist() == [1.0, 0.0, 0.0, 0.0, 0.0]
    assert found.tensors["logits"][0, 0, 0, 0] == 0
    assert all(torch.isfinite(g).all() for g in found.gradients.inputs.values())
    assert found.scale.extremes[0] == 0.0


@pytest.mark.anyio
async def test_the_answer_shows_the_scale_as_resolved(client):
    """Kind, base, the default and the extremes over the rows; a number stays a number."""
    body = {
        "mechanism": {"scale": {"kind": "log_length", "base": 16}},
        "inputs": {"kind": "seeded", "query_length": 4, "d_k": 64},
        "mask": {"causal": "upper_left"},
        "include": ["diagnostics"],
    }
    answer = await client.post("/v1/attention", json=body)
    assert answer.status_code == 200, answer.text
    scale = answer.json()["mechanism"]["scale"]
    assert scale.pop("max") == pytest.approx(0.125 * math.log(4) / math.log(16))
    assert scale == {"kind": "log_length", "base": 16.0, "default": 0.125, "min": 0.0}


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("scale", "pointer", "said"),
    [
        ({"kind": "log_length", "base": 1}, "/mechanism/scale/base", "greater than 1"),
        ({"kind": "log_length"}, "/mechanism/scale/base", "required"),
        ({"kind": "log", "base": 2}, "/mechanism/scale/kind", "log_length"),
        ({"base": 2}, "/mechanism/scale/kind", "required"),
        (
            {"kind": "log_length", "base": 2, "bias": 0},
            "/mechanism/scale/bias",
            "known are kind, base",
        ),
        ("1", "/mechanism/scale", "found a string"),
    ],
)
async def test_a_wrong_scale_is_refused_where_it_stands(client, scale, pointer, said):
    """The pointer has no name of a union member, the sentence says what is expected."""
    answer = await client.post("/v1/attention", json={"mechanism": {"scale": scale}})
    assert answer.status_code == 422
    (fault,) = answer.json()["errors"]
    assert fault["pointer"] == pointer
    assert said.lower() in fault["detail"].lower()


def test_given_logits_take_no_scale():
    """A scale acts before the logits."""
    with pytest.raises(Exception, match="scale acts on scores"):
        analyse(inputs=given_logits(torch.zeros(2, HEADS)), mechanism={"scale": SCALE})
