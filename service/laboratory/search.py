"""The mildest value of a setting that reaches a target, for each head at once."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

GRID = 32
DIGITS = 4
# Fine enough for values that are then rounded to four digits.
_PRECISION = 1e-5
# Below it a unit of the last digit leaves float64.
_SMALLEST = 1e-300

Reached = Callable[[Tensor], Tensor]
"""From a value for each head (heads,) to whether that head reaches the target (heads,)."""


@dataclass(frozen=True, slots=True)
class Found:
    """The mildest value of each head (heads,), NaN where none on the grid reaches the target."""

    values: Tensor

    @property
    def reachable(self) -> Tensor:
        """Which heads have one."""
        return torch.isfinite(self.values)


def log_grid(mildest: float, strongest: float) -> Tensor:
    """GRID values from the mildest to the strongest, equal in ratio, float64."""
    return torch.logspace(math.log10(mildest), math.log10(strongest), GRID, dtype=torch.float64)


def search(grid: Tensor, reached: Reached, heads: int) -> Found:
    """Walk the grid from mild to strong, then bisect between the last miss and the first hit.

    All heads walk together, each with its own bracket: a pass looks at one value for each of them.
    Where what is reached is monotone in the value (it is for temperature and softcap of softmax
    without a bias) the result is the mildest of all; elsewhere it is to the grid's resolution.

    Returns:
        Values that reach the target, rounded to DIGITS digits towards the strong side.
    """
    misses, hits = _bracket(grid, reached, heads)
    found = torch.isfinite(hits)
    rounds = math.ceil(math.log2(max(1.0, abs(float((grid[1] / grid[0]).log())) / _PRECISION)))
    for _ in range(rounds if bool((found & torch.isfinite(misses)).any()) else 0):
        # Where nothing misses the mildest value is the first; where nothing hits any will do.
        middle = (misses * hits).sqrt()
        trial = torch.where(torch.isfinite(middle), middle, hits.nan_to_num(float(grid[0])))
        hit = reached(trial)
        between = torch.isfinite(middle)
        hits = torch.where(between & hit, middle, hits)
        misses = torch.where(between & ~hit, middle, misses)
    upwards = bool(grid[-1] > grid[0])
    values = [round_towards(value, upwards=upwards) for value in hits.tolist()]
    return Found(torch.tensor(values, dtype=torch.float64))


def _bracket(grid: Tensor, reached: Reached, heads: int) -> tuple[Tensor, Tensor]:
    """The last value that misses and the first that hits, NaN where there is none."""
    misses = torch.full((heads,), math.nan, dtype=torch.float64)
    hits = misses.clone()
    for value in grid.tolist():
        open_ = torch.isnan(hits)
        hit = reached(torch.full((heads,), value, dtype=torch.float64))
        misses = torch.where(open_ & ~hit, value, misses)
        hits = torch.where(open_ & hit, value, hits)
        if bool(torch.isfinite(hits).all()):
            break
    return misses, hits


def round_towards(value: float, *, upwards: bool) -> float:
    """Rounded to DIGITS significant digits, up or down; NaN stays."""
    if not math.isfinite(value) or abs(value) < _SMALLEST:
        return value
    step = 10.0 ** (math.floor(math.log10(abs(value))) - DIGITS + 1)
    # A value on the grid of digits stays, whatever its last bit.
    steps = value / step
    whole = math.ceil(steps - 1e-6) if upwards else math.floor(steps + 1e-6)
    return float(f"{whole * step:.{DIGITS - 1}e}")
