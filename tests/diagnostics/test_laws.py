import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from service.attention import rows
from service.diagnostics.aggregate import aggregate
from tests.builders import (
    SOFTMAX_DIAGNOSTICS,
    analyse,
    figures_of,
    given_logits,
    normal,
    plain_figures,
    qkv,
)

DOUBLE = torch.float64
LAWS = settings(max_examples=60, deadline=None)


def figures(logits, scale=1.0):
    """Every diagnostic of float64 logits (rows, keys), −∞ hidden."""
    visible = (logits != -math.inf)[None]
    block = logits.masked_fill(~visible[0], 0.0)[None]
    found = rows.fast(block, visible, 0, (torch.empty_like(block), torch.empty_like(block)))
    return {name: f[0] for name, f in figures_of(found.statistics, scale=scale).items()}


@st.composite
def logit_rows(draw, least=2, most=17):
    """Three rows of float64 logits up to 30 apart, often tied, some with hidden keys or none."""
    keys, seed = draw(st.integers(least, most)), draw(st.integers(0, 2**20))
    steps, spread = draw(st.sampled_from([(1, 0.5), (3, 5.0), (240, 0.001), (240, 0.125)]))
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(-steps, steps + 1, (3, keys), generator=generator).double() * spread
    hidden = torch.rand(3, keys, generator=generator) < draw(st.sampled_from([0.0, 0.3, 0.9]))
    return logits.masked_fill(hidden, -math.inf)


def bound(text, n, key_length):
    """The value of an end of a stated range, for rows with n visible keys."""
    return {
        "0": torch.zeros_like(n),
        "1": torch.ones_like(n),
        "-1": -torch.ones_like(n),
        "1/2": torch.full_like(n, 0.5),
        "n": n,
        "1/n": 1 / n,
        "1 - 1/n": 1 - 1 / n,
        "ln n": n.log(),
        "key_length": torch.full_like(n, key_length),
        "key_length - 1": torch.full_like(n, key_length - 1),
        "inf": torch.full_like(n, math.inf),
        "-inf": torch.full_like(n, -math.inf),
    }[text]


@LAWS
@given(logits=logit_rows(least=1))
def test_every_figure_lies_in_its_stated_range(logits):
    """Each diagnostic stays within the range that its own entry in the table states."""
    found = figures(logits)
    n = found["visible_keys"]
    for name, diagnostic in SOFTMAX_DIAGNOSTICS.items():
        low, high = diagnostic.range[1:-1].split(", ")
        at = ~found[name].isnan()
        figure, seen = found[name][at], n[at]
        low, high = (bound(end, seen, logits.shape[-1]) for end in (low, high))
        assert (figure >= low - 1e-12).all(), (name, figure, low)
        assert (figure <= high + 1e-12 * seen).all(), (name, figure, high)


@LAWS
@given(logits=logit_rows(least=1))
def test_every_figure_is_its_plain_definition(logits):
    """In float64 each diagnostic equals the textbook formula on the weights."""
    found = figures(logits)
    for name, expected in plain_figures(logits).items():
        torch.testing.assert_close(
            found[name], expected, rtol=1e-9, atol=1e-9, equal_nan=True, msg=name
        )
    assert set(SOFTMAX_DIAGNOSTICS) - set(plain_figures(logits)) == {
        "score_mean",
        "score_variance",
        "score_max_abs",
    }


@LAWS
@given(logits=logit_rows(), seed=st.integers(0, 999))
def test_the_order_of_the_keys_does_not_matter(logits, seed):
    """Permuted keys give the same figures; the argmax moves with its key, to the first on ties."""
    order = torch.randperm(logits.shape[-1], generator=torch.Generator().manual_seed(seed))
    found, moved = figures(logits), figures(logits[:, order])
    for name in SOFTMAX_DIAGNOSTICS.keys() - {"argmax"}:
        torch.testing.assert_close(
            moved[name], found[name], rtol=1e-10, atol=1e-10, equal_nan=True, msg=name
        )
    best = logits[:, order] == logits.amax(-1, keepdim=True)
    first = best.int().argmax(-1).double()
    assert torch.equal(moved["argmax"], first.where(found["visible_keys"] > 0, -1.0))


FOLLOW_A_SHIFT = {"lse", "logit_mean", "logit_max", "logit_min", "score_mean"}
NEITHER = {"logit_max_abs", "score_max_abs"}


@LAWS
@given(logits=logit_rows(), shift=st.integers(-999, 999))
def test_a_common_shift_moves_the_logits_only(logits, shift):
    """The mean, the extremes and the log-sum-exp follow a shift; nothing of the weights does."""
    found, moved = figures(logits), figures(logits + shift)
    for name in SOFTMAX_DIAGNOSTICS.keys() - NEITHER:
        expected = found[name] + shift * (name in FOLLOW_A_SHIFT)
        torch.testing.assert_close(
            moved[name], expected, rtol=1e-9, atol=1e-9, equal_nan=True, msg=name
        )
    largest = torch.maximum(moved["logit_max"].abs(), moved["logit_min"].abs())
    torch.testing.assert_close(moved["logit_max_abs"], largest, equal_nan=True)


@LAWS
@given(logits=logit_rows(), scale=st.sampled_from([0.125, -0.5, 3.0]))
def test_scores_are_logits_over_the_scale(logits, scale):
    """Without softcap and bias the scores' figures follow from the logits by 1/scale."""
    scores = plain_figures((logits / scale).where(logits > -math.inf, -math.inf))
    found = figures(logits, scale=scale)
    for name, plain in {"mean": "mean", "variance": "variance", "max_abs": "max_abs"}.items():
        expected = scores[f"logit_{plain}"].where(found["visible_keys"] > 0, math.nan)
        torch.testing.assert_close(
            found[f"score_{name}"], expected, rtol=1e-9, atol=1e-9, equal_nan=True
        )


def entropy_floor(spread, n):
    """The least entropy of n keys whose logits lie at distance `spread` from their mean."""
    b = (-spread * (n / (n - 1)).sqrt()).exp()
    rest = 1 + (n - 1) * b
    return rest.log() + spread * (n * (n - 1)).sqrt() * b / rest


@LAWS
@given(logits=logit_rows())
def test_the_entropy_never_falls_below_its_floor(logits):
    """With r = ‖s − mean s‖ the entropy is at least that of one key above n − 1 equal ones."""
    found = figures(logits)
    several = found["visible_keys"] > 1
    n = found["visible_keys"][several]
    spread = (found["logit_variance"][several] * n).sqrt()
    assert (found["entropy"][several] >= entropy_floor(spread, n) - 1e-10).all()


@pytest.mark.parametrize("n", [2, 3, 17])
def test_the_entropy_floor_is_tight(n):
    """One logit above n − 1 equal ones has exactly the entropy of the floor, at every gap."""
    logits = torch.zeros(40, n, dtype=DOUBLE)
    logits[:, n // 2] = torch.arange(40, dtype=DOUBLE) / 2
    found = figures(logits)
    spread = (found["logit_variance"] * n).sqrt()
    floor = entropy_floor(spread, torch.tensor(float(n), dtype=DOUBLE))
    torch.testing.assert_close(found["entropy"], floor, rtol=1e-8, atol=0)


@LAWS
@given(logits=logit_rows(), beta=st.floats(1.01, 3.0))
def test_sharpening_a_row_lowers_its_trace_and_entropy(logits, beta):
    """A larger inverse temperature never raises the trace or entropy, nor lowers max_weight."""
    found, sharper = figures(logits), figures(logits * beta)
    at = found["visible_keys"] > 1
    spread = (found["logit_gap"] > 0.01) & (found["logit_gap"] < 20) & at
    for name, sign in (("jacobian_trace", -1), ("entropy", -1), ("max_weight", 1)):
        change = sign * (sharper[name] - found[name])
        assert (change[at] >= -1e-13).all(), name
        assert (change[spread] > 0).all(), name


@LAWS
@given(logits=logit_rows())
def test_the_entropy_answers_to_temperature_by_the_variance_under_p(logits):
    """The derivative dH/dβ is −β·Var_p(s), here at β = 1 by central differences."""
    step = 1e-4
    found = figures(logits)
    up, down = figures(logits * (1 + step))["entropy"], figures(logits * (1 - step))["entropy"]
    at = found["visible_keys"] > 0
    slope = ((up - down) / (2 * step))[at]
    torch.testing.assert_close(slope, -found["logit_variance_under_p"][at], rtol=1e-4, atol=1e-5)


@LAWS
@given(logits=logit_rows())
def test_the_spectral_norm_lies_between_its_bounds(logits):
    """The second weight ≤ λmax ≤ min(max weight, 1/2), and λmax ≤ trace."""
    assume((logits != -math.inf).any())
    included = ["jacobian_spectral", "row_diagnostics"]
    found = {
        n: f[0, 0] for n, f in analyse(inputs=given_logits(logits), include=included).rows.items()
    }
    at = found["visible_keys"] > 1
    exact = found["jacobian_spectral"][at]
    assert (found["jacobian_spectral_lower"][at] <= exact + 1e-15).all()
    assert (exact <= found["jacobian_spectral_upper"][at] + 1e-15).all()
    assert (exact <= found["jacobian_trace"][at] * (1 + 1e-12) + 1e-15).all()
    assert (exact <= found["jacobian_frobenius"][at] * (1 + 1e-12) + 1e-15).all()


def test_the_frobenius_norm_is_the_rms_gradient():
    """For upstream gradients N(0, I) the squared gradient on the logits averages to its square."""
    logits = normal(3, 7, seed=1, dtype=DOUBLE) * torch.tensor([[0.1], [1.0], [4.0]])
    samples = 20_000
    batch = logits.expand(samples, 3, 7).clone().requires_grad_()
    (torch.softmax(batch, -1) * normal(samples, 3, 7, seed=2, dtype=DOUBLE)).sum().backward()
    squared = batch.grad.square().sum(-1)
    error = squared.std(0) / math.sqrt(samples)
    expected = figures(logits)["jacobian_frobenius"].square()
    assert ((squared.mean(0) - expected).abs() <= 4 * error).all()
    assert (error < 0.02 * expected).all()  # sharp enough to fail


@pytest.mark.parametrize("dim", [16, 64])
def test_a_small_jacobian_norm_is_not_saturation(dim):
    """Unscaled rows over 128 keys have the larger norm; only the trace and its kin order them."""
    inputs = {"kind": "seeded", "heads": 3, "query_length": 61, "key_length": 128, "d_k": dim}
    include = ["diagnostics"]
    scaled = analyse(inputs=inputs, include=include).diagnostics
    unscaled = analyse(inputs=inputs, mechanism={"scale": 1.0}, include=include).diagnostics
    assert (unscaled["jacobian_frobenius"].mean > scaled["jacobian_frobenius"].mean).all()
    assert (unscaled["jacobian_trace"].mean < scaled["jacobian_trace"].mean).all()
    assert (unscaled["normalized_entropy"].mean < scaled["normalized_entropy"].mean).all()
    assert (unscaled["max_weight"].mean > scaled["max_weight"].mean).all()


NAN, INF = math.nan, math.inf
WITHOUT_A_KEY = dict.fromkeys(SOFTMAX_DIAGNOSTICS, NAN) | {
    "visible_keys": 0,
    "argmax": -1,
    "lse": -INF,
}
WITH_ONE_KEY = {
    "visible_keys": 1,
    "argmax": 3,
    "lse": 0.75,
    "entropy": 0,
    "normalized_entropy": NAN,
    "effective_keys": 1,
    "participation_ratio": 1,
    "max_weight": 1,
    "logit_gap": NAN,
    "logit_mean": 0.75,
    "logit_variance": 0,
    "logit_max": 0.75,
    "logit_min": 0.75,
    "logit_max_abs": 0.75,
    "saturation_index": NAN,
    "score_mean": 1.5,
    "score_variance": 0,
    "score_max_abs": 1.5,
    "jacobian_trace": 0,
    "jacobian_frobenius": 0,
    "jacobian_spectral_lower": NAN,
    "jacobian_spectral_upper": 0.5,
    "logit_variance_under_p": 0,
}


@pytest.mark.parametrize("mask", ["key_lengths", "allowed", "bias"])
def test_rows_that_see_no_key_or_one(mask):
    """Without a key n is 0, argmax −1, lse −∞; with one the entropy is 0; pairs are undefined."""
    query, key = torch.tensor([[1.5], [0.0], [1.5]]), torch.tensor([[9.0]] * 5)
    key[3] = 1.0
    visible = torch.ones(3, 5, dtype=torch.bool)
    visible[0] = torch.tensor([False, False, False, True, False])
    visible[1] = False
    request = {
        "key_lengths": {"key_lengths": torch.tensor([4]), "window": {"left": 0, "right": 0}}
        | {"offset": torch.tensor([3])},
        "allowed": {"allowed": visible},
        "bias": {"bias": torch.zeros(3, 5).masked_fill(~visible, -INF)},
    }[mask]
    found = analyse(
        inputs=qkv(query, key), mechanism={"scale": 0.5}, mask=request, include=["row_diagnostics"]
    )
    for row, expected in ((0, WITH_ONE_KEY), (1, WITHOUT_A_KEY)):
        shown = {name: figure[0, 0, row].item() for name, figure in found.rows.items()}
        assert shown == pytest.approx(expected, nan_ok=True, rel=1e-7), row
    assert found.numerics.fully_masked_rows == int(mask == "key_lengths") + 1


def test_aggregates_run_over_the_rows_where_a_figure_is_defined():
    """Mean, minimum and maximum skip undefined rows and say how many they ran over."""
    logits = normal(2, 3, 5, 7, seed=1, dtype=DOUBLE)
    logits[0, 1, :2] = -INF
    logits[0, 2, 1:, 1:] = -INF
    logits[1, 0] = -INF
    found = analyse(inputs=given_logits(logits), include=["diagnostics"])
    assert found.diagnostics["entropy"].rows.tolist() == [[5, 3, 5], [0, 5, 5]]
    assert found.diagnostics["normalized_entropy"].rows.tolist() == [[5, 3, 1], [0, 5, 5]]
    assert found.diagnostics["visible_keys"].rows.tolist() == [[5, 5, 5], [5, 5, 5]]
    assert "argmax" not in found.diagnostics
    assert found.numerics.fully_masked_rows == 2 + 5
    entropy = plain_figures(logits)["entropy"]
    aggregated = found.diagnostics["entropy"]
    assert aggregated.unit == "nat"
    for have, want in (
        (aggregated.mean, entropy.nanmean(-1)),
        (aggregated.minimum, entropy.nan_to_num(INF).amin(-1)),
        (aggregated.maximum, entropy.nan_to_num(-INF).amax(-1)),
    ):
        assert have[1, 0].isnan()
        at = ~have.isnan()
        assert at.sum() == 5
        torch.testing.assert_close(have[at], want[at])


def test_no_infinity_enters_an_aggregate():
    """A log-sum-exp of −∞ is shown per row and left out of mean, minimum and maximum."""
    figure = torch.tensor([[[-INF, 2.0, 4.0], [NAN, -INF, NAN]]], dtype=DOUBLE)
    found = aggregate(figure, "nat")
    assert found.rows.tolist() == [[2, 0]]
    assert found.mean[0, 0] == 3
    assert (found.minimum[0, 0], found.maximum[0, 0]) == (2, 4)
    assert torch.stack([found.mean, found.minimum, found.maximum])[:, 0, 1].isnan().all()


def test_scores_are_collected_where_they_do_not_follow_from_the_logits():
    """With a softcap, a bias or a scale of 0 the scores' figures are those of the scores."""
    query, key = normal(5, 3, seed=1, dtype=DOUBLE), normal(7, 3, seed=2, dtype=DOUBLE)
    visible = normal(5, 7, seed=3) > -0.7
    expected = plain_figures((query @ key.T).masked_fill(~visible, -INF))
    for mechanism, bias in [
        ({}, None),
        ({"scale": -0.3}, None),
        ({"scale": 0.0}, None),
        ({"softcap": 0.5}, None),
        ({"scale": 0.3}, normal(5, 7, seed=4, dtype=DOUBLE)),
    ]:
        found = analyse(
            inputs=qkv(query, key),
            mechanism=mechanism,
            mask={"allowed": visible, "bias": bias},
            include=["row_diagnostics"],
        ).rows
        for name in ("mean", "variance", "max_abs"):
            torch.testing.assert_close(
                found[f"score_{name}"][0, 0], expected[f"logit_{name}"], rtol=1e-9, atol=1e-12
            )
