"""The bracketed search: mildest values of many heads at once."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from service.laboratory.search import DIGITS, GRID, log_grid, round_towards, search

thresholds = st.lists(st.floats(1.0, 5000.0), min_size=1, max_size=6)


class Counted:
    """A monotone target: reached from a threshold of each head on; counts its passes."""

    def __init__(self, wanted, *, upwards=True):
        self.wanted = torch.tensor(wanted, dtype=torch.float64)
        self.upwards, self.passes = upwards, 0

    def __call__(self, values):
        self.passes += 1
        assert values.shape == self.wanted.shape
        assert torch.isfinite(values).all()
        return values >= self.wanted if self.upwards else values <= self.wanted


@settings(max_examples=200, deadline=None)
@given(thresholds)
def test_the_mildest_value_of_every_head_is_found(wanted):
    """It reaches the target, and is at most the search's own precision stronger than needed."""
    found = search(log_grid(1.0, 4000.0), Counted(wanted), len(wanted))
    for value, threshold in zip(found.values.tolist(), wanted, strict=True):
        if threshold > 4000.0:
            assert math.isnan(value)
        else:
            assert (
                threshold * (1 - 1e-7)
                <= value
                <= threshold * (1 + 2e-5) + 10 ** (math.floor(math.log10(threshold)) - DIGITS + 1)
            )


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0.001, 100.0), min_size=1, max_size=6))
def test_downwards_too(wanted):
    """A softcap is milder the larger it is."""
    found = search(log_grid(100.0, 0.005), Counted(wanted, upwards=False), len(wanted))
    for value, threshold in zip(found.values.tolist(), wanted, strict=True):
        if threshold < 0.005:
            assert math.isnan(value)
        else:
            unit = 10 ** (math.floor(math.log10(threshold)) - DIGITS + 1)
            assert threshold * (1 - 2e-5) - unit <= value <= threshold * (1 + 1e-7)


def test_each_head_has_its_own_result():
    """What one head needs says nothing of another; one may need nothing, one find nothing."""
    found = search(log_grid(1.0, 100.0), Counted([0.5, 2.0, 1e9]), 3)
    assert found.values[:2].tolist() == pytest.approx([1.0, 2.0], rel=6e-4)
    assert found.reachable.tolist() == [True, True, False]


def test_the_grid_has_32_points_of_equal_ratio():
    """From the mildest to the strongest, both among them."""
    grid = log_grid(1.0, 1000.0)
    assert len(grid) == GRID == 32
    assert (float(grid[0]), float(grid[-1])) == (1.0, pytest.approx(1000.0))
    ratios = grid[1:] / grid[:-1]
    torch.testing.assert_close(ratios, ratios[:1].expand(31))


def test_passes_are_few():
    """At most the grid and some twenty more, however many heads there are."""
    target = Counted([1.5, 3000.0, 77.0, 1e9, 1.0])
    search(log_grid(1.0, 4000.0), target, 5)
    assert target.passes <= GRID + 20


def test_nothing_is_bisected_where_nothing_is_between():
    """All heads fine at the mildest value: one pass."""
    target = Counted([1.0, 0.1])
    assert search(log_grid(1.0, 10.0), target, 2).values.tolist() == [1.0, 1.0]
    assert target.passes == 1


def test_a_target_reached_only_in_a_window_is_found_there():
    """Where the target is not monotone, the first window that the grid meets counts."""

    def reached(values):
        return (values > 5) & (values < 9)

    (value,) = search(log_grid(1.0, 1000.0), reached, 1).values.tolist()
    assert 5 < value < 9


@pytest.mark.parametrize(
    ("value", "up", "down"),
    [
        (1.0, 1.0, 1.0),
        (2.34567, 2.346, 2.345),
        (0.00123456, 0.001235, 0.001234),
        (99996.0, 1e5, 99990.0),
        (1234.0, 1234.0, 1234.0),
        (0.0, 0.0, 0.0),
    ],
)
def test_values_are_rounded_towards_the_strong_side(value, up, down):
    """To four digits; what has no more stays."""
    assert round_towards(value, upwards=True) == pytest.approx(up, rel=1e-12)
    assert round_towards(value, upwards=False) == pytest.approx(down, rel=1e-12)
    assert math.isnan(round_towards(math.nan, upwards=True))


@pytest.mark.parametrize("value", [5e-324, 1e-322, -1e-310, 1e-301])
def test_what_has_no_four_digits_stays(value):
    """A unit of the fourth digit would be 0."""
    assert round_towards(value, upwards=True) == round_towards(value, upwards=False) == value
