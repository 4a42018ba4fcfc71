"""The figures of hidden units and of the bound on their scores."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from service.mechanisms import additive_scores
from tests.builders import analyse, normal, qkv
from tests.mechanisms.variants import ALL, HEADS, KV_HEADS, MASKS, VARIANTS
from tests.mechanisms.variants import given as weights_of
from tests.mechanisms.variants import visible as visible_under
from tests.passes import set_blocks

HIDDEN_FIGURES = ["tanh_saturated", "tanh_gradient", "score_bound", "score_bound_share"]
WITH_UNITS = ["additive: without bias", "additive: with bias", "multiplicative: concat"]
SPREAD = 4.0


def hidden_units(variant, query, key):
    """The whole tensor (batch, head, query, key, hidden) of the units after their tanh."""
    weights = variant.mechanism["parameters"]
    if "weight" in weights:
        d_q = query.shape[-1]
        on_query, on_key = weights["weight"][:, :d_q], weights["weight"][:, d_q:]
    else:
        on_query, on_key = weights["query_weight"], weights["key_weight"]
    key = key.repeat_interleave(HEADS // KV_HEADS, 1)
    inner = (query @ on_query.T)[..., None, :] + (key @ on_key.T)[..., None, :, :]
    return torch.tanh(inner + weights.get("bias", torch.zeros(1)).double())


def plain(variant, query, key, mask):
    """The four figures by their definitions, from the whole tensor."""
    units, seen = hidden_units(variant, query, key), visible_under(mask)
    vector = variant.mechanism["parameters"]["score_vector"]
    n = seen.sum(-1).double()
    n = torch.where(n > 0, n, math.nan)
    bound = vector.abs().sum()
    scores = torch.where(seen, (units @ vector).abs(), 0.0)
    return {
        "tanh_saturated": ((units.abs() > 0.99).double().mean(-1) * seen).sum(-1) / n,
        "tanh_gradient": ((1 - units**2).mean(-1) * seen).sum(-1) / n,
        "score_bound": torch.where(n > 0, bound, math.nan),
        "score_bound_share": torch.where(n > 0, scores.amax(-1) / bound, math.nan),
    }


def spread_operands(variant):
    """Inputs that saturate some of the units and leave others linear."""
    query, key, value = variant.operands()
    return query * SPREAD, key * SPREAD, value


@pytest.mark.parametrize("normalizer", ["softmax", "sparsemax"])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", WITH_UNITS)
def test_the_figures_are_those_of_the_whole_tensor_of_units(name, mask, normalizer, monkeypatch):
    """Shares, slopes and bound are the definitions', in whole rows or key blocks and tiles."""
    variant = ALL[name]
    query, key, value = spread_operands(variant)
    expected = plain(variant, query, key, MASKS[mask])
    assert 0.1 < expected["tanh_saturated"].nanmean() < 0.9
    request = variant.request((query, key, value), normalizer=normalizer)
    for key_block, block_logits, tile in ((512, 2**18, 2**16), (2, 30, 90)):
        set_blocks(monkeypatch, keys=key_block)
        set_blocks(monkeypatch, logits=block_logits)
        monkeypatch.setattr(additive_scores, "_TILE", tile)
        found = analyse(**request, mask=MASKS[mask], include=["row_diagnostics"]).rows
        for figure, want in expected.items():
            torch.testing.assert_close(
                found[figure], want, rtol=1e-11, atol=1e-12, equal_nan=True, msg=figure
            )


@pytest.mark.parametrize("options", [{"scale": -0.3}, {"scale": 0.0}, {"softcap": 0.7}], ids=str)
def test_the_bound_is_about_the_scores_not_the_logits(options):
    """Scale and softcap come after the scores and leave the share of the bound alone."""
    variant = ALL["additive: with bias"]
    operands = spread_operands(variant)
    request = variant.request(operands, **options)
    found = analyse(**request, mask=MASKS["bias"], include=["row_diagnostics"]).rows
    expected = plain(variant, *operands[:2], MASKS["bias"])["score_bound_share"]
    torch.testing.assert_close(
        found["score_bound_share"], expected, rtol=1e-11, atol=1e-12, equal_nan=True
    )


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.tuples(*(st.integers(1, most) for most in (5, 7, 19, 3, 4))),
    size=st.sampled_from([0.01, 1.0, 30.0]),
    dtype=st.sampled_from([torch.float64, torch.float32]),
    score=st.sampled_from(["additive", "concat"]),
    seed=st.integers(0, 999),
)
def test_no_score_passes_the_bound(sizes, size, dtype, score, seed):
    """The largest |score| is at most Σ|v|, whatever query, key and weights; the share at most 1."""
    queries, keys, hidden, d_q, d_k = sizes
    vector = normal(hidden, seed=seed, dtype=dtype)
    on_query, on_key = normal(hidden, d_q, seed=seed + 1), normal(hidden, d_k, seed=seed + 2)
    if score == "additive":
        own = {"query_weight": on_query, "key_weight": on_key, "score_vector": vector}
        mechanism = {"kind": "additive", "parameters": weights_of(**own)}
    else:
        own = {"weight": torch.cat([on_query, on_key], 1), "score_vector": vector}
        mechanism = {"kind": "multiplicative", "score": score, "parameters": weights_of(**own)}
    query = size * normal(queries, d_q, seed=seed + 3, dtype=dtype)
    key = size * normal(keys, d_k, seed=seed + 4, dtype=dtype)
    found = analyse(
        inputs=qkv(query, key), mechanism=mechanism, include=["row_diagnostics", "scores"]
    )
    rounding = 1 + hidden * torch.finfo(dtype).eps
    bound = found.rows["score_bound"][0, 0]
    assert torch.equal(bound, vector.double().abs().sum().expand(queries))
    largest = found.tensors["scores"].double().abs().amax(-1)[0, 0]
    assert (largest <= bound * rounding).all()
    assert (found.rows["score_bound_share"] <= rounding).all()


def test_units_at_full_stretch_reach_the_bound():
    """Large inputs that agree with the signs of v give the bound itself and no gradient."""
    vector = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    weight = 1e3 * vector.sign()[:, None]
    own = {"query_weight": weight, "key_weight": weight, "score_vector": vector}
    ones = torch.ones(5, 1, dtype=torch.float64)
    mechanism = {"kind": "additive", "parameters": weights_of(**own)}
    found = analyse(inputs=qkv(ones), mechanism=mechanism, include=["row_diagnostics"]).rows
    assert {n: found[n][0, 0, 0].item() for n in HIDDEN_FIGURES} == {
        "tanh_saturated": 1.0,
        "tanh_gradient": 0.0,
        "score_bound": 3.5,
        "score_bound_share": 1.0,
    }


def test_units_at_rest_pass_every_gradient():
    """Inputs of zeros leave the units linear: nothing saturated, slope 1, scores 0."""
    variant = ALL["additive: without bias"]
    operands = tuple(torch.zeros_like(t) for t in variant.operands())
    found = analyse(**variant.request(operands), include=["row_diagnostics"]).rows
    figures = (found["tanh_saturated"], 1 - found["tanh_gradient"], found["score_bound_share"])
    assert not any(f.any() for f in figures)


@pytest.mark.parametrize("name", sorted(set(ALL) - set(WITH_UNITS)))
def test_scores_without_hidden_units_have_no_such_figures(name):
    """Dot products neither show nor aggregate figures of units that they do not have."""
    found = analyse(
        **ALL[name].request(ALL[name].operands()), include=["row_diagnostics", "diagnostics"]
    )
    assert not set(HIDDEN_FIGURES) & (set(found.rows) | set(found.diagnostics))


def test_the_variants_with_units_are_all_of_additive_and_concat():
    """A new form of a score with hidden units is not left out above."""
    additive = {f"additive: {name}" for name in VARIANTS["additive"]}
    assert set(WITH_UNITS) == additive | {"multiplicative: concat"}


def test_nan_at_a_forbidden_key_reaches_no_figure_of_the_units():
    """Where NaN is computed with, one in a hidden key leaves the rows' figures as they were."""
    for name in WITH_UNITS:
        query, key, value = ALL[name].operands()
        mask = {"key_lengths": torch.tensor([6, 6])}
        request = {"mask": mask, "include": ["row_diagnostics"]}
        clean = analyse(**ALL[name].request((query, key, value)), **request).rows
        key[..., 6, :] = math.nan
        found = analyse(
            **ALL[name].request((query, key, value)),
            **request,
            compute={"nonfinite": "propagate"},
        ).rows
        for figure in HIDDEN_FIGURES:
            torch.testing.assert_close(found[figure], clean[figure], msg=f"{name} {figure}")
