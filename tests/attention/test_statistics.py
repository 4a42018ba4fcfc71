import math
from dataclasses import fields
from decimal import Decimal, localcontext
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from service.attention import rows
from service.attention.statistics import RowStatistics
from tests.builders import (
    SOFTMAX_DIAGNOSTICS,
    analyse,
    figures_of,
    given_logits,
    normal,
    plain_figures,
)
from tests.passes import set_blocks

NAMES = [field.name for field in fields(RowStatistics)]
SCORES = ("score_mean", "score_squares", "score_max_abs")


def collect(logits, visible=None, first_key=0, way=rows.fast):
    """Statistics (1, rows) of logits (rows, keys) by one of the two ways."""
    block = logits[None].clone()
    if way is rows.exact:
        return rows.exact(block, visible, first_key).statistics
    found = rows.fast(block, visible, first_key, (torch.empty_like(block), torch.empty_like(block)))
    assert found is not None
    return found.statistics


def collect_in_parts(logits, visible, cuts, way=rows.fast):
    """The same, merged over the key ranges between `cuts`; a range without a key is neutral."""
    edges = [0, *sorted(cuts), logits.shape[-1]]
    parts = []
    for start, stop in pairwise(edges):
        if start == stop:
            parts.append(RowStatistics.empty(1, len(logits)))
            continue
        seen = None if visible is None else visible[..., start:stop]
        parts.append(collect(logits[:, start:stop], seen, start, way))
    return parts


def assert_same(found, expected, tolerance):
    """All statistics agree; counts and indices exactly."""
    for name in NAMES:
        have, want = getattr(found, name), getattr(expected, name)
        exactly = name in ("visible", "argmax", "overflowed", "underflowed")
        rtol, atol = (0.0, 0.0) if exactly else (tolerance, tolerance)
        torch.testing.assert_close(have, want, rtol=rtol, atol=atol, msg=f"{name} {have} {want}")


def relative(name, tolerance):
    """A relative tolerance, and the name in the message."""
    return {"rtol": tolerance, "atol": 0, "msg": lambda found: f"{name}: {found}"}


ROWS, MOST_KEYS = 3, 19


@st.composite
def cut_rows(draw):
    """Logits in eighths with frequent ties, a mask that may hide whole rows, and places to cut."""
    keys = draw(st.integers(1, MOST_KEYS))
    eighths = st.lists(st.integers(-24, 24), min_size=keys, max_size=keys)
    seen = st.lists(st.booleans(), min_size=keys, max_size=keys)
    logits = torch.tensor([draw(eighths) for _ in range(ROWS)], dtype=torch.float64) / 8
    visible = torch.tensor([draw(seen) for _ in range(ROWS)]) if draw(st.booleans()) else None
    cuts = draw(st.lists(st.integers(0, keys), max_size=5))
    return logits, visible, cuts


@settings(max_examples=100, deadline=None)
@given(case=cut_rows(), way=st.sampled_from([rows.fast, rows.exact]))
def test_merged_parts_are_the_whole(case, way):
    """Statistics of any partition of the keys, empty ranges included, merge to those of all."""
    logits, visible, cuts = case
    parts = collect_in_parts(logits, visible, cuts, way)
    assert_same(RowStatistics.merge(parts), collect(logits, visible, way=way), 1e-12)


@settings(max_examples=60, deadline=None)
@given(case=cut_rows(), split=st.integers(0, 6))
def test_merging_is_associative(case, split):
    """Parts may be merged in groups first, as threads and machines would."""
    parts = collect_in_parts(*case)
    split = min(split, len(parts))
    groups = [group for group in (parts[:split], parts[split:]) if group]
    grouped = RowStatistics.merge([RowStatistics.merge(group) for group in groups])
    assert_same(grouped, RowStatistics.merge(parts), 1e-12)


@pytest.mark.parametrize("place", ["first", "last", "both", "between"])
def test_an_empty_range_is_neutral(place):
    """A range without a key changes nothing, wherever it stands: −∞ − −∞ never becomes NaN."""
    logits, empty = normal(ROWS, 7, dtype=torch.float64), RowStatistics.empty(1, ROWS)
    hidden = collect(logits, torch.zeros(1, 7, dtype=torch.bool))
    assert_same(hidden, empty, 0)
    low, high = collect(logits[:, :3]), collect(logits[:, 3:], first_key=3)
    parts = {
        "first": [empty, low, high],
        "last": [low, high, hidden],
        "both": [hidden, low, high, empty],
        "between": [low, empty, hidden, high],
    }[place]
    assert_same(RowStatistics.merge(parts), collect(logits), 1e-13)


def test_only_empty_ranges_stay_empty():
    """Rows that see no key in any range are the neutral element again."""
    empty = RowStatistics.empty(1, ROWS)
    assert_same(RowStatistics.merge([empty, empty, empty]), empty, 0)


def test_scores_merge_as_a_pooled_sample():
    """Mean, squares about it and largest magnitude of the scores are those of the whole sample."""
    scores = normal(ROWS, 11, dtype=torch.float64) + 3
    parts = [collect(part) for part in scores.split([2, 4, 5], -1)]
    for part, own in zip(parts, scores.split([2, 4, 5], -1), strict=True):
        moments = rows.moments(own[None], None)
        part.score_mean, part.score_squares, part.score_max_abs = moments
    merged = RowStatistics.merge(parts)
    for name, want in zip(SCORES, rows.moments(scores[None], None), strict=True):
        torch.testing.assert_close(getattr(merged, name), want, rtol=1e-13, atol=0)
    torch.testing.assert_close(merged.score_mean[0], scores.mean(-1))
    torch.testing.assert_close(merged.score_squares[0] / 11, scores.var(-1, correction=0))
    torch.testing.assert_close(merged.score_max_abs[0], scores.abs().amax(-1))


@pytest.mark.parametrize("way", [rows.fast, rows.exact])
def test_a_tie_of_the_argmax_gives_the_lowest_index(way):
    """Equal maxima are counted once as the argmax, the first of them, whole or in parts."""
    logits = torch.tensor([[1.0, 4, 4, 4, 0], [2.0, 2, 2, 2, 2], [0.0, 1, 0, 3, 3]])
    whole = collect(logits, way=way)
    assert whole.argmax.tolist() == [[1, 0, 3]]
    assert torch.equal(whole.second, whole.maximum)
    for cuts in ([1], [2], [3], [4], [1, 2, 3, 4]):
        merged = RowStatistics.merge(collect_in_parts(logits, None, cuts, way))
        assert_same(merged, whole, 1e-6)


KEYS, SCALE = 11, 0.125
GAPS = [g / 2 for g in range(121)]


def row_with_gap(gap, place):
    """A row whose maximum lies `gap` above the next key; every logit is a multiple of 1/8."""
    below = [0.0, 0.0, 0.125, 0.5, 1.25, 2.0, 2.5, 4.0, 5.625, 7.0]
    logits = [-3.5 - gap - extra for extra in below]
    logits.insert(place, -3.5)
    return logits


def decimal_figures(logits):
    """Every diagnostic of one row by its plain definition with 80 digits."""
    with localcontext() as context:
        context.prec = 80
        s = [Decimal(x) for x in logits]
        n, top, total = Decimal(len(s)), max(s), sum(x.exp() for x in s)
        p = [x.exp() / total for x in s]
        mean = sum(s) / n
        variance = sum((x - mean) ** 2 for x in s) / n
        entropy = -sum(w * w.ln() for w in p)
        average = sum(w * x for w, x in zip(p, s, strict=True))
        weights = sorted(p)
        jacobian = [[w * ((i == j) - v) for j, v in enumerate(p)] for i, w in enumerate(p)]
        scale = Decimal(SCALE)
        figures = {
            "visible_keys": n,
            "argmax": Decimal(s.index(top)),
            "lse": total.ln(),
            "entropy": entropy,
            "normalized_entropy": entropy / n.ln(),
            "effective_keys": entropy.exp(),
            "participation_ratio": 1 / sum(w * w for w in p),
            "max_weight": weights[-1],
            "logit_gap": top - sorted(s)[-2],
            "logit_mean": mean,
            "logit_variance": variance,
            "logit_max": top,
            "logit_min": min(s),
            "logit_max_abs": max(abs(x) for x in s),
            "saturation_index": (variance / (2 * n.ln())).sqrt(),
            "score_mean": mean / scale,
            "score_variance": variance / scale**2,
            "score_max_abs": max(abs(x) for x in s) / scale,
            "jacobian_trace": sum(jacobian[i][i] for i in range(len(p))),
            "jacobian_frobenius": sum(e * e for line in jacobian for e in line).sqrt(),
            "jacobian_spectral_lower": weights[-2],
            "jacobian_spectral_upper": min(weights[-1], Decimal("0.5")),
            "logit_variance_under_p": sum(
                w * (x - average) ** 2 for w, x in zip(p, s, strict=True)
            ),
        }
        return {name: float(figure) for name, figure in figures.items()}


@pytest.fixture(scope="module", params=[0, 6, 10], ids=["first", "middle", "last"])
def sharpening(request):
    """Float32 rows of growing gap, and what 80 digits say of them."""
    rows_of_gap = [row_with_gap(gap, request.param) for gap in GAPS]
    logits = torch.tensor(rows_of_gap, dtype=torch.float32)
    assert torch.equal(logits.double(), torch.tensor(rows_of_gap, dtype=torch.float64))
    exact = [decimal_figures(row) for row in rows_of_gap]
    assert exact[0].keys() == SOFTMAX_DIAGNOSTICS.keys()
    return logits, {
        name: torch.tensor([e[name] for e in exact], dtype=torch.float64)
        for name in SOFTMAX_DIAGNOSTICS
    }


@pytest.mark.parametrize("cuts", [[], [4], [1, 3, 7]], ids=["whole", "two parts", "four parts"])
@pytest.mark.parametrize("way", [rows.fast, rows.exact])
def test_every_diagnostic_keeps_its_digits_as_a_row_sharpens(way, cuts, sharpening):
    """In float32 each diagnostic is within 1e-4 of the truth at gaps from 0 to 60, relatively."""
    logits, expected = sharpening
    merged = RowStatistics.merge(collect_in_parts(logits, None, cuts, way))
    for name, found in figures_of(merged, scale=SCALE).items():
        torch.testing.assert_close(found[0], expected[name], **relative(name, 1e-4))


LIMIT = 87.336


@pytest.mark.parametrize("key_block", [1, 2, 3, 1024])
@pytest.mark.parametrize("place", [0, 2, 6], ids=["first", "middle", "last"])
def test_underflow_is_counted_from_the_gap_to_the_final_maximum(place, key_block, monkeypatch):
    """Weights below the smallest normal count as underflowed, however late the maximum comes."""
    set_blocks(monkeypatch, keys=key_block)
    gaps = [87.25, 87.375, 88.0, 200.0, 3.0, 174.625]
    assert math.exp(-87.25) > torch.finfo(torch.float32).tiny > math.exp(-87.375)
    row = [-gap for gap in gaps]
    row.insert(place, 0.0)
    logits = torch.tensor([row, [0.0] * 7, [-math.inf] * 7]) + 5
    numerics = analyse(inputs=given_logits(logits), include=["diagnostics"]).numerics
    assert numerics.underflowed_weights == sum(gap > LIMIT for gap in gaps) == 4
    masked = analyse(
        inputs=given_logits(logits),
        mask={"allowed": torch.tensor([[gap != -200.0 for gap in row]])},
        include=["diagnostics"],
    )
    assert masked.numerics.underflowed_weights == 3


@pytest.mark.parametrize("block_logits", [7, 2**18])
def test_float64_underflows_far_later(block_logits, monkeypatch):
    """In float64 the limit is 708.4: a gap of 200 is an ordinary weight."""
    set_blocks(monkeypatch, logits=block_logits)
    logits = torch.tensor([[0.0, -200.0, -708.0, -709.0]], dtype=torch.float64)
    found = analyse(inputs=given_logits(logits), include=["diagnostics", "weights"])
    assert found.numerics.underflowed_weights == 1
    expected = [1.0, math.exp(-200), math.exp(-708), 0.0]
    assert found.tensors["weights"].flatten().tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("key_block", [3, 1024])
def test_a_flushed_weight_is_zero_on_every_path(key_block, monkeypatch):
    """A row beside one that needs the exact way flushes at the same gap as it would alone."""
    set_blocks(monkeypatch, keys=key_block)
    row = torch.tensor([0.0, -87.25, -87.375, -95.0, -1.0])
    beside = torch.tensor([0.0, -3e38, 1.0, 2.0, 3.0])
    both = analyse(inputs=given_logits(torch.stack([row, beside])), include=["weights"])
    assert (both.tensors["weights"][0, 0, 0] > 0).tolist() == [True, True, False, False, True]


@pytest.mark.parametrize("key_block", [5, 1024])
@pytest.mark.parametrize("shift", [1e4, -1e4])
def test_a_large_common_shift_costs_no_digits(shift, key_block, monkeypatch):
    """A shift of 1e4 moves the logits' mean, extremes and log-sum-exp, and nothing else."""
    set_blocks(monkeypatch, keys=key_block)
    logits = (normal(5, 13) * 64).round() / 64
    shifted = logits + shift
    assert torch.equal(shifted.double(), logits.double() + shift)
    found = analyse(inputs=given_logits(shifted), include=["row_diagnostics"]).rows
    for name, expected in plain_figures(shifted).items():
        torch.testing.assert_close(found[name][0, 0], expected, **relative(name, 2e-6))


@pytest.mark.parametrize("fill", [-1e4, -1e9, -1e14, torch.finfo(torch.float32).min])
@pytest.mark.parametrize("key_block", [3, 1024])
def test_entries_far_below_leave_the_others_their_digits(fill, key_block, monkeypatch):
    """Masks of large finite numbers, the commonest that users send, are computed as given."""
    set_blocks(monkeypatch, keys=key_block)
    logits = normal(5, 13)
    logits[normal(5, 13, seed=1) > 0.5] = fill
    found = analyse(inputs=given_logits(logits), include=["row_diagnostics"]).rows
    for name, expected in plain_figures(logits).items():
        torch.testing.assert_close(found[name][0, 0], expected, **relative(name, 1e-5))


@pytest.mark.parametrize("key_block", [2, 1024])
def test_float64s_own_minimum_merges(key_block, monkeypatch):
    """A range that lies 1.8e308 below another one adds nothing and spoils nothing."""
    set_blocks(monkeypatch, keys=key_block)
    low = torch.finfo(torch.float64).min
    logits = torch.tensor([[1.0, 2.0, low, low, 3.0]], dtype=torch.float64)
    found = analyse(inputs=given_logits(logits), include=["row_diagnostics"]).rows
    expected = plain_figures(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    for name in ("lse", "entropy", "jacobian_trace", "max_weight", "logit_variance_under_p"):
        torch.testing.assert_close(found[name][0, 0, 0], expected[name], rtol=1e-12, atol=0)


@pytest.mark.parametrize("size", [1e4, 1e8, 1.9e14, 1.8e16, 3e20, 1e30])
def test_equal_logits_far_from_zero_let_no_hidden_key_in(size):
    """Rounding of a huge mean never lifts a hidden key to a visible row's argmax."""
    sizes = size * (1 + normal(97, 1, seed=1).abs() / 9)
    visible = normal(97, 11, seed=2) > -0.5
    visible[:, 0], visible[:, 1] = False, True
    found = analyse(
        inputs=given_logits(sizes.expand(97, 11)),
        mask={"allowed": visible},
        include=["weights", "row_diagnostics"],
    )
    expected = visible / visible.sum(-1, keepdim=True).float()
    torch.testing.assert_close(found.tensors["weights"][0, 0], expected, rtol=1e-6, atol=0)
    assert found.rows["argmax"].eq(1).all()


def far(top, rest, low):
    """Some large logits among `rest` low ones."""
    return torch.tensor([[low] * (rest // 2) + top + [low] * (rest - rest // 2)])


@pytest.mark.parametrize(
    "logits",
    [
        far([1.0, 1.0000001], 19, -90.0),
        far([0.0, 0.001], 19, -99.0),
        torch.cat([normal(1, 37) * 1e-3, torch.full((1, 41), -99.0)], dim=-1),
        far([1.1], 1023, 0.0),
        far([0.013], 1023, 0.0),
        far([1e4 + 0.0625], 37, 1e4),
    ],
    ids=["tie but for a bit", "close pair", "cluster", "one above", "hardly above", "shifted"],
)
def test_what_stands_close_together_keeps_its_digits(logits):
    """Neither far lower keys nor a flat row cost the gap, the argmax or the variance a digit."""
    found = figures_of(collect(logits))
    expected = plain_figures(logits)
    names = ("logit_gap", "logit_variance", "logit_variance_under_p", "entropy", "jacobian_trace")
    for name in names:
        torch.testing.assert_close(
            found[name].flatten(), expected[name].flatten(), rtol=1e-4, atol=0, msg=name
        )
    assert int(found["argmax"]) == int(logits.double().argmax())
