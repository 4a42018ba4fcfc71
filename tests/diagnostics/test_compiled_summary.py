"""The compiled summary of rows against the one in numpy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from service.attention.native import library
from service.attention.native.structures import FIGURES
from service.attention.statistics import RowStatistics
from service.diagnostics import DIAGNOSTICS, summary
from service.diagnostics.offer import offer
from service.diagnostics.summary import Material, summarise
from service.normalizers import NORMALIZERS

SOFTMAX = NORMALIZERS["softmax"]


@pytest.fixture(autouse=True)
def each_pass():
    """Both are asked here by name."""
    if library.available() is None:
        pytest.skip("the compiled library is not built here")


def statistics_of(logits):
    """Statistics of rows (heads, N, M) as a pass gives them; −∞ is a hidden key, NaN overflows."""
    wide = logits.double()
    broken, seen = torch.isnan(wide), ~torch.isinf(wide) & ~torch.isnan(wide)
    masked = torch.where(seen, wide, -math.inf)
    count = seen.sum(-1).double()
    maximum, argmax = masked.max(-1)
    two = torch.cat([masked, torch.full_like(masked[..., :1], -math.inf)], -1).topk(2, -1).values
    gaps = torch.where(seen, wide - maximum.unsqueeze(-1), 0.0)
    u = torch.where(seen, gaps.exp(), 0.0).scatter(-1, argmax.unsqueeze(-1), 0.0)
    tail, gap1 = u.sum(-1), (u * gaps).sum(-1)
    about = gaps - (gap1 / (1 + tail)).unsqueeze(-1)
    spread = (u * about.square()).sum(-1) + (gap1 / (1 + tail)).square()
    mean = torch.where(seen, wide, 0.0).sum(-1) / count.clamp(min=1)
    squares = torch.where(seen, wide - mean.unsqueeze(-1), 0.0).square().sum(-1)
    flushed = (seen & (gaps < -708)).sum(-1).double()
    minimum = torch.where(seen, wide, math.inf).amin(-1)
    stacked = torch.stack([
        count + broken.sum(-1), maximum, two[..., 1], minimum,
        torch.where(count > 0, argmax.double(), -1.0), tail, u.square().sum(-1), u.pow(3).sum(-1),
        gap1, spread, mean, squares, broken.sum(-1).double(), flushed, mean, squares,
        torch.maximum(maximum.abs(), minimum.abs()),
    ])  # fmt: skip
    return RowStatistics(*stacked.unsqueeze(1).contiguous().unbind())


def both(statistics, *, scale=0.25, keep=True, kind="tensors"):
    """The same by numpy and by the library."""
    material = Material.of(
        statistics, scale=scale, weighing=SOFTMAX, weight_sums=None, figures={}, constants={}
    )
    members = offer(kind, "softmax", hidden=False).members
    ways = (None, library.available())
    return [summarise(members, material, keep=keep, native=way) for way in ways]


def agree(plain, compiled):
    for name in ("total", "lowest", "highest"):
        np.testing.assert_allclose(
            getattr(compiled.sums, name), getattr(plain.sums, name),
            rtol=1e-13, atol=1e-13, err_msg=name,
        )  # fmt: skip
    assert np.array_equal(compiled.sums.rows, plain.sums.rows)
    assert np.array_equal(compiled.regimes, plain.regimes)
    assert np.array_equal(compiled.counts, plain.counts)
    if plain.figures is not None:
        np.testing.assert_allclose(compiled.figures, plain.figures, rtol=1e-13, atol=1e-13)


@given(
    seed=st.integers(0, 2**31),
    heads=st.integers(1, 3),
    queries=st.integers(1, 21),
    keys=st.integers(1, 12),
    size=st.sampled_from([0.0, 1e-3, 1.0, 8.0, 100.0, 900.0]),
    hidden=st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    broken=st.sampled_from([0.0, 0.02]),
    scale=st.sampled_from([None, 0.25, -2.0]),
)
def test_the_library_sums_what_numpy_sums(seed, heads, queries, keys, size, hidden, broken, scale):
    """Flat and saturated rows, rows with no key, one and several, and overflowed ones."""
    generator = torch.Generator().manual_seed(seed)
    shape = (heads, queries, keys)
    logits = torch.randn(shape, generator=generator, dtype=torch.float64) * size
    logits[torch.rand(shape, generator=generator) < hidden] = -math.inf
    logits[torch.rand(shape, generator=generator) < broken] = math.nan
    agree(*both(statistics_of(logits), scale=scale))


@pytest.mark.parametrize("instructions", ["avx512", "avx2", "baseline"])
@pytest.mark.parametrize("queries", [1, 3, 8, 37, 128, 300])
def test_every_instruction_set_agrees(instructions, queries):
    """However many rows a vector takes."""
    native = library.load()
    try:
        native.use(instructions)
    except library.Absent:
        pytest.skip(f"this machine has no {instructions}")
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn((2, queries, 9), generator=generator, dtype=torch.float64) * 4
    try:
        agree(*both(statistics_of(logits)))
        agree(*both(statistics_of(logits), keep=False))
    finally:
        native.use(None)


def test_inputs_that_lack_some_figures_are_summed_too():
    """Given logits have no scores; what is left keeps its order."""
    logits = torch.randn(
        (2, 11, 6), dtype=torch.float64, generator=torch.Generator().manual_seed(2)
    )
    agree(*both(statistics_of(logits), kind="logits"))


def item_of(statistics, item):
    """One batch item, as a pass over it alone would give it."""
    return RowStatistics(*statistics.stack()[:, item : item + 1].contiguous().unbind())


@given(
    seed=st.integers(0, 2**31),
    queries=st.sampled_from([1, 5, 8, 129, 300]),
    keys=st.integers(1, 9),
    hidden=st.sampled_from([0.0, 0.5]),
    broken=st.sampled_from([0.0, 0.02]),
)
def test_a_sum_has_the_same_bytes_in_any_company_and_whether_figures_are_kept(
    seed, queries, keys, hidden, broken
):
    """An item's neighbours may see other keys, and hold rows that are not summed."""
    generator = torch.Generator().manual_seed(seed)
    shape = (3, queries, keys)
    logits = torch.randn(shape, generator=generator, dtype=torch.float64) * 8
    logits[1:][torch.rand(shape, generator=generator)[1:] < hidden] = -math.inf
    logits[2:][torch.rand(shape, generator=generator)[2:] < broken] = math.nan
    stacked = statistics_of(logits).stack().transpose(1, 2).contiguous()
    statistics = RowStatistics(*stacked.unbind())
    (_, together), (_, kept) = (both(statistics, keep=keep) for keep in (False, True))
    assert parts_of(together) == parts_of(kept)
    for item in range(3):
        _, alone = both(item_of(statistics, item), keep=True)
        assert parts_of(alone) == parts_of(kept, item)
        assert alone.figures.tobytes() == kept.figures[:, item].tobytes()


def parts_of(found, item=None):
    """What is summed and counted, as bytes, of one batch item or all."""
    items = slice(None) if item is None else slice(item, item + 1)
    sums = found.sums
    arrays = (sums.total, sums.lowest, sums.highest, sums.rows, found.regimes, found.counts)
    return [array[:, items].tobytes() for array in arrays]


@pytest.mark.parametrize("scale", [1e-310, -1e-310, 1e308])
def test_a_scale_without_a_reciprocal_is_left_to_numpy(scale):
    """Flat rows have scores of 0 all the same."""
    statistics = statistics_of(torch.zeros((1, 5, 4), dtype=torch.float64))
    plain, asked = both(statistics, scale=scale, keep=False)
    assert parts_of(asked) == parts_of(plain)
    assert asked.sums.rows[FIGURES.index("score_mean")].tolist() == [[5]]


def test_statistics_that_lie_apart_are_left_to_numpy():
    """One of them is another tensor, as where the weights were given."""
    logits = torch.randn((1, 5, 4), dtype=torch.float64)
    statistics = statistics_of(logits)
    statistics.spread = statistics.spread.clone()
    plain, asked = both(statistics)
    assert asked.figures.tobytes() == plain.figures.tobytes()


def test_members_that_tell_no_regime_are_left_to_numpy():
    """Regimes come of two of the figures."""
    material = Material.of(
        statistics_of(torch.zeros((1, 2, 3), dtype=torch.float64)), scale=1.0, weighing=SOFTMAX,
        weight_sums=None, figures={}, constants={},
    )  # fmt: skip
    found = summarise([DIAGNOSTICS["entropy"]], material, keep=False, native=library.load())
    assert found.regimes is None
    assert found.sums.total.tolist() == [[[pytest.approx(2 * math.log(3))]]]


def test_the_library_is_asked(monkeypatch):
    """Where it can, it computes; numpy does not."""
    monkeypatch.setattr(summary, "_parts", None)
    logits = torch.zeros((1, 2, 3), dtype=torch.float64)
    material = Material.of(
        statistics_of(logits), scale=1.0, weighing=SOFTMAX, weight_sums=None, figures={},
        constants={},
    )  # fmt: skip
    members = offer("tensors", "softmax", hidden=False).members
    found = summarise(members, material, keep=False, native=library.load())
    assert [member.name for member in members] == list(FIGURES)
    assert found.sums.total[FIGURES.index("entropy")].tolist() == [[pytest.approx(2 * math.log(3))]]
