"""What a unit collects about its rows' references."""

import math
from dataclasses import dataclass
from enum import IntEnum, auto

from torch import Tensor

from service.attention.blocks import Unit


class Sum(IntEnum):
    """Rows of what a unit collects, (row, key range, unit row) in the compute dtype, of h = s/2."""

    REFERENCE = 0
    BASE = auto()
    MAXIMUM = auto()
    MINIMUM = auto()
    SECOND = auto()
    ARGMAX = auto()
    TOTAL = auto()
    SQUARES = auto()
    WEIGHTED_SQUARES = auto()
    WEIGHT2 = auto()
    WEIGHT3 = auto()
    WEIGHTED = auto()
    WEIGHT = auto()


SUMS = slice(Sum.TOTAL, len(Sum))
NORMS = slice(Sum.SQUARES, Sum.WEIGHTED)
PLAIN = 2
"""How many of `SUMS` are over all logits alike; the row's own maximum stays out of the others."""
WHOLE = (2.0, 4.0, 4.0, 1.0, 1.0, 2.0, 1.0)
"""The factor of each of `SUMS` for logits in place of their halves."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What a unit gave: its sums, and Σ exp(s − r)·value (heads, queries, d_v)."""

    unit: Unit
    sums: Tensor
    output: Tensor | None

    @property
    def finite(self) -> bool:
        """Whether values that are not finite, or sums of them that overflow, are in no output."""
        return self.output is None or math.isfinite(float(self.output.sum()))

    @property
    def numbers(self) -> int:
        """How many numbers it holds."""
        return self.sums.numel() + (0 if self.output is None else self.output.numel())
