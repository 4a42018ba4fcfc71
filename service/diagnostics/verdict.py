"""The verdict: which rows, heads and wholes are saturated, by this service's own rules.

No paper gives an entropy cut-off; the thresholds are a convention of this service, versioned, and
every answer says so. Evidence with thresholds from the literature stands beside it.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Level = Literal["saturated", "sharp", "healthy", "diffuse"]

RULES_VERSION = "1"
SATURATED_WEIGHT = 0.9
SHARP_ENTROPY = 0.5
DIFFUSE_ENTROPY = 0.95
MAJORITY = 0.5

REGIMES: dict[Level, str] = {
    "saturated": f"max_weight >= {SATURATED_WEIGHT}",
    "sharp": f"not saturated and normalized_entropy < {SHARP_ENTROPY}",
    "diffuse": f"neither and normalized_entropy > {DIFFUSE_ENTROPY}",
    "healthy": "none of these",
}
HEAD_RULES = (
    f"saturated if at least {MAJORITY:.0%} of the rows are; else sharp if saturated and sharp "
    f"together are; else diffuse if at least {MAJORITY:.0%} are; else healthy; undefined without "
    "a row that sees two keys"
)

MARKS = 3
"""What `mark_regimes` marks: the first fields of `Counts`, in their order."""

OFF_SOFTMAX = "the rules are about softmax weights; another normalizer has no level here"


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows in each regime, of the shape that was asked for."""

    saturated: Tensor
    sharp: Tensor
    diffuse: Tensor
    rows: Tensor

    @classmethod
    def of(cls, max_weight: Tensor, normalized_entropy: Tensor) -> "Counts":
        """Count along the last axis; rows where normalized_entropy is NaN have no regime."""
        weights, entropies = max_weight.numpy(), normalized_entropy.numpy()
        marks = np.empty((MARKS + 1, *weights.shape), dtype=bool)
        marks[MARKS] = mark_regimes(weights, entropies, marks[:MARKS])
        return cls.from_array(marks.sum(-1))

    @classmethod
    def from_array(cls, counts: NDArray[np.int64]) -> "Counts":
        """From the fields, one after the other."""
        return cls(*torch.from_numpy(counts).unbind())

    def pooled(self, *axes: int) -> "Counts":
        """The same, summed over further axes."""
        kept = (self.saturated, self.sharp, self.diffuse, self.rows)
        return Counts(*(count.sum(axes) for count in kept))

    def shares(self) -> dict[str, float | None]:
        """Share of the rows in each regime, over everything counted."""
        counts = (self.saturated, self.sharp, self.diffuse, self.rows)
        return shares(*(int(count.sum()) for count in counts))

    def levels(self) -> list[Level | None]:
        """The level of each entry, flat."""
        columns = (self.saturated, self.sharp, self.diffuse, self.rows)
        counts = zip(*(column.flatten().tolist() for column in columns), strict=True)
        return [level(*entry) for entry in counts]


def mark_regimes(
    max_weight: NDArray[np.float64], normalized_entropy: NDArray[np.float64], out: NDArray[Any]
) -> NDArray[np.bool_]:
    """Mark the saturated, the sharp and the diffuse among rows (…, N): out is (3, …, N).

    Returns the rows that have a regime.
    """
    regime = np.isfinite(normalized_entropy)
    saturated = (max_weight >= SATURATED_WEIGHT) & regime
    neither = regime & ~saturated
    out[0] = saturated
    out[1] = (normalized_entropy < SHARP_ENTROPY) & neither
    out[2] = (normalized_entropy > DIFFUSE_ENTROPY) & neither
    return regime


def level(saturated: int, sharp: int, diffuse: int, rows: int) -> Level | None:
    """The level of a head with these rows, None without any."""
    if rows == 0:
        return None
    if saturated >= MAJORITY * rows:
        return "saturated"
    if saturated + sharp >= MAJORITY * rows:
        return "sharp"
    return "diffuse" if diffuse >= MAJORITY * rows else "healthy"


def shares(saturated: int, sharp: int, diffuse: int, rows: int) -> dict[str, float | None]:
    """Share of these rows in each regime, None without any."""
    if rows == 0:
        return dict.fromkeys(REGIMES)
    return {
        "saturated": saturated / rows,
        "sharp": sharp / rows,
        "healthy": (rows - saturated - sharp - diffuse) / rows,
        "diffuse": diffuse / rows,
    }
