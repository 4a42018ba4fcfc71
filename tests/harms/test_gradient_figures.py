import math
from dataclasses import replace

import pytest
import torch

from tests.builders import analyse, given_logits, given_weights, normal, qkv
from tests.plain import (
    BATCH,
    HEADS,
    HIDDEN,
    KINDS,
    KV_HEADS,
    NORMALIZERS,
    WIDE,
    case_of,
    loaded_mask,
    plain,
    rms,
    upstream_of,
)

PRODUCTS = ("scaled_dot_product", "dot", "general", "multi_head")


def measured(case, mask=None):
    return analyse(**case.request, mask=mask or {}, include=["gradients"]).gradients


def of_heads(case, visible=None, bias=None):
    """The plain formulas with a graph, and the gradient on their weights."""
    leaves = {n: t.clone().requires_grad_() for n, t in case.tensors.items()}
    found = plain(case, leaves, visible, bias)
    loss = (found.output * upstream_of(0, *found.output.shape)).sum()
    return found, *torch.autograd.grad(loss, [found.weights, found.query], retain_graph=True)


def as_projected(case):
    """The same scores of the query as the tanh meets it: with hidden units for dimensions."""
    if case.kind not in ("additive", "concat"):
        return case
    name = "query_weight" if case.kind == "additive" else "weight"
    d_q, identity = case.inputs["query"].shape[-1], torch.eye(HIDDEN, dtype=WIDE)
    weight = case.weights[name]
    query = case.inputs["query"] @ weight[:, :d_q].t()
    new = torch.cat([identity, weight[:, d_q:]], 1)
    inputs, weights = {**case.inputs, "query": query}, {**case.weights, name: new}
    return replace(case, inputs=inputs, weights=weights)


def with_equal_weights(case, visible=None, bias=None):
    """Gradients on the heads' query: measured, and if all visible keys weighed the same."""
    case = as_projected(case)
    found, on_weights, on_query = of_heads(case, visible, bias)
    seen = (found.logits != -math.inf).to(WIDE)
    equal = seen / seen.sum(-1, keepdim=True).clamp(min=1)
    on_logits = equal * (on_weights - (equal * on_weights).sum(-1, keepdim=True))
    (flat,) = torch.autograd.grad(found.logits, found.query, on_logits)
    return on_query, flat, seen.sum(-1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("masked", [False, True])
def test_the_gradient_is_set_beside_that_of_equal_weights(kind, softcap, masked):
    """The ratio of the RMS on the heads' query, and the share of rows that get under a tenth."""
    case = case_of(kind, softcap=softcap, std=2.0, scale=12.0)
    mask, visible, bias = loaded_mask() if masked else ({}, None, None)
    found = measured(case, mask)
    own, flat, seen = with_equal_weights(case, visible, bias)
    # On nearly one-hot rows autograd itself is down to the rounding of float64.
    expected = rms(own) / rms(flat)
    torch.testing.assert_close(found.relative_to_uniform, expected, rtol=1e-6, atol=1e-14)
    several = seen >= 2
    vanished = (own.norm(dim=-1) < 0.1 * flat.norm(dim=-1)) & several
    expected = vanished.sum(-1) / several.sum(-1)
    assert 0 < expected.mean() < 1
    torch.testing.assert_close(found.vanished_rows, expected.to(WIDE))


def test_equal_weights_are_as_exact_as_the_inputs():
    """For float64 inputs 1/n is a float64 too."""
    case = case_of("scaled_dot_product")
    own, flat, _ = with_equal_weights(case)
    expected = rms(own) / rms(flat)
    torch.testing.assert_close(measured(case).relative_to_uniform, expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize("kind", ["scaled_dot_product", "dot", "general"])
def test_queries_of_zero_pass_what_equal_weights_pass(kind):
    """Zero queries weigh all keys alike: the ratio is 1 and no row has vanished."""
    case = case_of(kind)
    case.inputs["query"].zero_()
    found = measured(case, {"causal": "upper_left"})
    torch.testing.assert_close(found.relative_to_uniform, torch.ones(BATCH, HEADS, dtype=WIDE))
    assert not found.vanished_rows.any()


def test_the_gradient_vanishes_as_the_scale_grows():
    """The ratio falls towards 0 while rows go one-hot, and in the end every row has vanished."""
    ratios, shares = [], []
    for scale in (1e-3, 10.0, 100.0, 1e4):
        found = measured(case_of("scaled_dot_product", scale=scale, std=2.0))
        ratios.append(float(found.relative_to_uniform.max()))
        shares.append(float(found.vanished_rows.min()))
    assert ratios[0] == pytest.approx(1, abs=0.01)
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[-1] < 1e-6
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0, 1)


@pytest.mark.parametrize("normalizer", NORMALIZERS[1:])
def test_other_normalizers_have_no_ratio_and_say_why(normalizer):
    """The closed form is the softmax's; equal weights are a measure of all that share a sum."""
    found = measured(case_of("scaled_dot_product", normalizer=normalizer))
    assert found.closed_form is None
    assert found.closed_form_reason == f"defined for softmax, not for {normalizer}"
    if normalizer == "sigmoid":
        assert found.relative_to_uniform is found.vanished_rows is None
        assert "on its own" in found.relative_reason
    else:
        assert found.relative_reason is None
        assert bool((found.relative_to_uniform > 0).all())


def test_a_row_of_one_key_under_sparsemax_gets_no_gradient_at_all():
    """Support sizes of 1 pass nothing: every row has vanished, off softmax too."""
    case = case_of("scaled_dot_product", normalizer="sparsemax", scale=1e4)
    found = measured(case)
    assert not found.inputs["query"].any()
    assert bool((found.vanished_rows == 1).all())


def test_one_key_is_no_measure_of_vanishing():
    """Rows that see one key get no gradient either way: undefined, not vanished."""
    case = case_of("scaled_dot_product")
    found = measured(case, {"key_lengths": torch.tensor([1, 7])})
    assert not found.inputs["query"][0].any()
    assert found.relative_to_uniform[0].isnan().all()
    assert found.vanished_rows[0].isnan().all()
    assert found.relative_to_uniform[1].isfinite().all()
    assert found.vanished_rows[1].isfinite().all()


@pytest.mark.parametrize("kind", PRODUCTS)
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("masked", [False, True])
def test_the_closed_form_is_the_gradient_on_the_heads_query(kind, softcap, masked):
    """The form scale · Cov_p(V, K)ᵀ g, with 1 − tanh² inside a softcap, is what is measured."""
    case = case_of(kind, softcap=softcap, scale=-0.6)
    mask, visible, bias = loaded_mask() if masked else ({}, None, None)
    found = measured(case, mask)
    _, _, on_query = of_heads(case, visible, bias)
    assert found.closed_form_reason is None
    torch.testing.assert_close(found.closed_form, rms(on_query), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(
    ("kind", "options", "reason"),
    [
        ("additive", {}, "defined for dot-product scores"),
        ("concat", {}, "defined for dot-product scores"),
        ("scaled_dot_product", {"qk_norm": "l2"}, "qk_norm"),
        ("multi_head", {"qk_norm": "rms"}, "qk_norm"),
    ],
)
def test_there_is_no_closed_form_of_other_scores(kind, options, reason):
    """Scores that are no dot products of what is projected have none, and the answer says why."""
    found = measured(case_of(kind, **options))
    assert found.closed_form is None
    assert reason in found.closed_form_reason
    assert found.relative_to_uniform is not None


def test_multi_head_shows_the_gradients_inside():
    """Those on the projected query, key and value stand beside those on the inputs."""
    case = case_of("multi_head")
    found = measured(case)
    leaves = {n: t.clone().requires_grad_() for n, t in case.tensors.items()}
    inside = plain(case, leaves)
    loss = (inside.output * upstream_of(0, *inside.output.shape)).sum()
    on = torch.autograd.grad(loss, [inside.query, inside.key, inside.value])
    for name, gradient in zip(("query", "key", "value"), on, strict=True):
        torch.testing.assert_close(found.projected[name], rms(gradient), rtol=1e-11, atol=0)
        assert found.inputs[name].shape == (BATCH, 1)
    assert [t.shape[1] for t in found.projected.values()] == [HEADS, KV_HEADS, KV_HEADS]


@pytest.mark.parametrize("normalizer", ["softmax", "softmax_one"])
@pytest.mark.parametrize("gap", [5.0, 15.0, 17.0, 20.0, 40.0, 60.0])
def test_a_saturated_row_in_float32_has_a_gradient_that_counts(gap, normalizer):
    """Up to a gap of 60 the gradient is that of the formula, where 1 − p is long 0 in float32."""
    query, key = torch.tensor([[1.0, 0.0]]), torch.tensor([[gap, 0.0], [0.0, 1.0]])
    value = normal(2, 3, seed=1)
    found = analyse(
        mechanism={"kind": "scaled_dot_product", "scale": 1, "normalizer": normalizer},
        inputs=qkv(query, key, value),
        include=["gradients"],
    ).gradients
    upstream = upstream_of(0, 1, 3).double()
    # With r = exp(−gap) the divisor is 1 + r, and 1 + 2r beside a null key, whose logit is 0 too.
    on_first, on_second = (float(upstream @ v.double()) for v in value)
    small = math.exp(-gap)
    nulls = 1 if normalizer == "softmax_one" else 0
    total = 1 + (1 + nulls) * small
    on_key_a = small / total**2 * ((1 + nulls) * on_first - on_second)
    on_key_b = small / total * (on_second - (on_first + small * on_second) / total)
    expected = math.sqrt(((gap * on_key_a) ** 2 + on_key_b**2) / 2)
    assert float(found.inputs["query"]) == pytest.approx(expected, rel=1e-4, abs=0)
    if normalizer == "softmax":
        assert float(found.closed_form) == pytest.approx(expected, rel=1e-4, abs=0)


@pytest.mark.parametrize("inputs", [given_logits(normal(5, 7)), given_weights(torch.ones(5, 7))])
def test_given_logits_and_weights_have_no_harms(inputs):
    """What needs a query cannot be had from what comes after it, and is named in omitted."""
    harms = ["flip_margin", "gradients", "perturbation"]
    inputs = {**inputs, "value": normal(7, 11)}
    found = analyse(inputs=inputs, include=[*harms, "sparsity", "diagnostics"])
    assert found.plan.include.omitted == tuple(harms)
    assert found.gradients is None
    assert "sparsity" in found.rows
    assert not [name for name in found.diagnostics if name.startswith(("flip", "perturbation"))]


def test_an_overflowed_row_is_no_row_that_has_vanished_or_not():
    """The share runs over the rows with figures: it is as if the overflowed row were not there."""
    query, key = normal(5, 4, seed=1).abs(), normal(7, 4, seed=2).abs()
    query[2] *= 1e30
    key[3] *= 1e15
    found = analyse(inputs=qkv(query, key), include=["gradients"]).gradients
    rest = analyse(inputs=qkv(query[[0, 1, 3, 4]], key), include=["gradients"]).gradients
    assert torch.equal(rest.vanished_rows, torch.ones(1, 1, dtype=WIDE))
    assert torch.equal(found.vanished_rows, rest.vanished_rows)
