import math
from decimal import Decimal, localcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from service.attention.perturbation import _moved
from tests.builders import analyse, normal, qkv, same_bytes
from tests.passes import set_blocks
from tests.plain import (
    D_V,
    KEYS,
    KINDS,
    NORMALIZERS,
    QUERIES,
    WIDE,
    case_of,
    loaded_mask,
    plain,
)

FIGURES = ("perturbation_l1", "perturbation_l2", "perturbation_output")
BOUNDS = ("perturbation_l1_bound", "perturbation_l2_bound")


def item(**options):
    return [{"name": "perturbation", **options}]


def moved(case, seed, relative_noise):
    """Query and key with noise of a share of their RMS in their (batch, head)."""
    generator = torch.Generator().manual_seed(3_000_000_000 + seed)
    noisy = dict(case.tensors)
    for name in ("query", "key"):
        tensor = noisy[name]
        size = tensor.square().mean((-2, -1), keepdim=True).sqrt()
        noise = torch.randn(tensor.shape, generator=generator).to(WIDE)
        noisy[name] = tensor + relative_noise * size * noise
    return noisy


def plain_figures(case, visible, bias, *, seed=0, relative_noise=0.01):
    """The figures by their definitions; NaN for rows without a visible key."""
    before = plain(case, case.tensors, visible, bias)
    after = plain(case, moved(case, seed, relative_noise), visible, bias)
    seen = before.logits > -math.inf
    weights = after.weights - before.weights
    logits = torch.where(seen, after.logits - before.logits, 0.0)
    output = (after.heads - before.heads).norm(dim=-1) / before.heads.norm(dim=-1)
    figures = {
        "perturbation_l1": weights.abs().sum(-1),
        "perturbation_l1_bound": logits.abs().amax(-1),
        "perturbation_l2": weights.norm(dim=-1),
        "perturbation_l2_bound": logits.norm(dim=-1) / 2,
        "perturbation_output": output,
    }
    return {n: torch.where(seen.any(-1), f, math.nan) for n, f in figures.items()}


def compare(found, expected, names, tolerance):
    for name in names:
        torch.testing.assert_close(
            found[name], expected[name], rtol=tolerance, atol=tolerance * 1e-3, equal_nan=True
        )


@pytest.mark.parametrize("block_logits", [20, 2**18], ids=["some rows", "whole"])
@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_figures_are_those_of_the_plain_formulas(kind, normalizer, block_logits, monkeypatch):
    """With the same noise, masked, biased and softcapped; certificates for softmax alone."""
    set_blocks(monkeypatch, logits=block_logits)
    case = case_of(kind, normalizer=normalizer, softcap=2.5, scale=-0.8)
    mask, visible, bias = loaded_mask()
    found = analyse(**case.request, mask=mask, include=item(seed=5, relative_noise=0.2))
    expected = plain_figures(case, visible, bias, seed=5, relative_noise=0.2)
    assert all((expected[name].nan_to_num(1) >= 0).all() for name in expected)
    assert expected["perturbation_l1"].isnan().any()
    names = (*FIGURES, *BOUNDS) if normalizer == "softmax" else FIGURES
    assert found.rows.keys() == set(names)
    compare(found.rows, expected, names, 1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_narrow_inputs_move_as_far(kind, dtype):
    """Computed in float32 with the same noise, the figures agree with float64's."""
    case = case_of(kind, dtype=dtype)
    found = analyse(**case.request, include=item(relative_noise=0.3)).rows
    expected = plain_figures(case, None, None, relative_noise=0.3)
    compare(found, expected, (*FIGURES, *BOUNDS), 1e-4)


@pytest.mark.parametrize("normalizer", NORMALIZERS[1:])
def test_only_softmax_has_certificates(normalizer):
    """The bounds are null with a reason elsewhere, the figures themselves are not."""
    case = case_of("scaled_dot_product", normalizer=normalizer)
    found = analyse(**case.request, include=item())
    for name in BOUNDS:
        assert found.diagnostics[name].reason == f"defined for softmax, not for {normalizer}"
        assert found.diagnostics[name].mean.isnan().all()
        assert name not in found.rows
    for name in FIGURES:
        assert found.diagnostics[name].reason is None
        assert (found.diagnostics[name].mean > 0).all()


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**31),
    st.sampled_from([0.1, 1.0, -7.0, 300.0]),
    st.sampled_from([1e-3, 0.01, 1.0]),
    st.booleans(),
    st.sampled_from([torch.float32, WIDE]),
)
def test_the_certificates_hold(seed, scale, noise, masked, dtype):
    """Whatever the scale, noise and mask: ‖Δp‖₁ ≤ ‖Δs‖∞ and ‖Δp‖₂ ≤ ½‖Δs‖₂."""
    query, key, value = (
        normal(n, d, seed=seed + n, dtype=dtype) for n, d in ((QUERIES, 4), (KEYS, 4), (KEYS, D_V))
    )
    visible = normal(QUERIES, KEYS, seed=seed) > (0.2 if masked else -math.inf)
    rows = analyse(
        mechanism={"kind": "scaled_dot_product", "scale": scale},
        inputs=qkv(query, key, value),
        mask={"allowed": visible},
        include=item(seed=seed, relative_noise=noise),
    ).rows
    known = visible.any(-1)
    rounding = 1e-6 if dtype is torch.float32 else 1e-14
    for name in ("perturbation_l1", "perturbation_l2"):
        found, bound = rows[name][0, 0], rows[f"{name}_bound"][0, 0]
        assert torch.equal(found.isfinite(), known)
        assert (found <= bound + rounding)[known].all()


def test_the_certificates_are_met_between_two_keys():
    """Between two keys of one weight some small step moves the weights as far as the bounds say."""
    query, key = torch.ones(1, 1, dtype=WIDE), torch.tensor([[1.0], [-1.0]], dtype=WIDE)
    met = {"perturbation_l1": 0.0, "perturbation_l2": 0.0}
    for seed in range(20):
        rows = analyse(
            mechanism={"kind": "scaled_dot_product", "scale": 1},
            inputs=qkv(query, key),
            mask={"bias": -key.t()},
            include=item(relative_noise=1e-3, seed=seed),
        ).rows
        for name, most in met.items():
            met[name] = max(most, float(rows[name] / rows[f"{name}_bound"]))
    assert all(0.9 < share <= 1 for share in met.values())


def test_constant_values_hide_every_move():
    """Where all values agree the output stays, however far the weights go."""
    case = case_of("scaled_dot_product", std=3.0)
    case.inputs["value"] = torch.ones_like(case.inputs["value"]) * 2.5
    rows = analyse(**case.request, include=item(relative_noise=0.5)).rows
    assert (rows["perturbation_output"] < 1e-14).all()
    assert (rows["perturbation_l1"].amax(-1) > 0.3).all()


def test_a_value_of_zero_has_no_relative_move():
    """An output of 0 has nothing to be relative to: undefined, not infinite."""
    case = case_of("scaled_dot_product")
    case.inputs["value"].zero_()
    rows = analyse(**case.request, include=item()).rows
    assert rows["perturbation_output"].isnan().all()
    assert rows["perturbation_l1"].isfinite().all()


def test_the_seed_is_the_noise():
    """The same seed gives the same bytes, another one other figures; 0 and 0.01 are the default."""
    case = case_of("scaled_dot_product", dtype=torch.float32)

    def rows(include):
        return analyse(**case.request, include=include).rows

    plainly, zero, one = rows(["perturbation"]), rows(item(seed=0)), rows(item(seed=1))
    louder = rows(item(relative_noise=0.02))
    named = rows(item(relative_noise=0.01))
    for name in (*FIGURES, *BOUNDS):
        assert same_bytes(plainly[name], zero[name])
        assert same_bytes(plainly[name], named[name])
        assert not torch.equal(zero[name], one[name])
        assert (louder[name].mean() / zero[name].mean()).item() == pytest.approx(2, rel=0.1)


def test_noise_is_relative_to_each_head():
    """A head of queries a thousand times as long gets noise a thousand times as large."""
    query, key = normal(1, 1, QUERIES, 4, seed=1), normal(1, 1, KEYS, 4, seed=2)
    queries = torch.cat([query, 1000 * query], 1)
    keys = torch.cat([key, key / 1000], 1)
    found = analyse(
        inputs=qkv(queries.to(WIDE), keys.to(WIDE)), include=item(relative_noise=0.1)
    ).rows
    sizes = found["perturbation_l1_bound"][0].mean(-1)
    assert 0.3 < float(sizes[1] / sizes[0]) < 3


def test_the_perturbation_leaves_what_is_analysed_alone():
    """Output, weights and diagnostics are those without it, and so is the global generator."""
    case = case_of("multi_head", dtype=torch.float32)
    include = ["output", "weights", "diagnostics", "row_diagnostics"]
    torch.manual_seed(1)
    before = torch.get_rng_state()
    plainly = analyse(**case.request, include=include)
    also = analyse(**case.request, include=[*include, "perturbation", "gradients"])
    assert torch.equal(torch.get_rng_state(), before)
    for name in ("output", "weights"):
        assert same_bytes(plainly.tensors[name], also.tensors[name])
    assert all(same_bytes(figure, also.rows[name]) for name, figure in plainly.rows.items())


def test_logits_that_overflow_only_when_moved_are_in_no_figure():
    """A row whose moved logits are infinite has no distance: undefined, neither 1 nor infinite."""
    query, key = torch.full((1, 1), 1.8e19), torch.tensor([[1.8e19], [1.0]])
    rows = analyse(
        mechanism={"kind": "scaled_dot_product", "scale": 1},
        inputs=qkv(query, key),
        include=[*item(relative_noise=1.0, seed=2), "row_diagnostics"],
    ).rows
    assert rows["max_weight"].isfinite().all()
    assert rows["perturbation_l1_bound"].isnan().all()
    assert rows["perturbation_l1"].isnan().all()


@pytest.mark.parametrize("change", [0.3, -0.3, 1e-3])
@pytest.mark.parametrize("gap", [1.0, 13.0, 15.0, 20.0, 60.0])
def test_saturated_rows_move_by_what_the_formula_says(gap, change):
    """Weights of 1 − p that float32 rounds away still move: against 60 digits."""
    with localcontext(prec=60):
        small, moved = (Decimal(-g).exp() for g in (gap, gap - change))
        expected = 2 * abs(moved / (1 + moved) - small / (1 + small))
    query, key = torch.tensor([[1.0, 0.0]]), torch.tensor([[gap, 0.0], [0.0, 1.0]])
    weights = torch.tensor([[[1 / (1 + float(small)), float(small) / (1 + float(small))]]])
    found = _moved(weights.double(), torch.tensor([[[0.0, change]]], dtype=torch.float64), None)
    assert float(found.abs().sum()) == pytest.approx(float(expected), rel=1e-6, abs=0)
    assert float(found.sum()) == pytest.approx(0, abs=1e-20)
    include = [{"name": "perturbation", "relative_noise": 0.01}]
    rows = analyse(mechanism={"scale": 1}, inputs=qkv(query, key), include=include).rows
    assert 0 < float(rows["perturbation_l1"]) <= float(rows["perturbation_l1_bound"])
