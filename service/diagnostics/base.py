"""What a diagnostic is: arithmetic on the statistics of the rows, with its meaning beside it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.diagnostics.rows import Figures, Rows

Need = Literal["weights", "logits", "scores", "hidden"]
"""`hidden`: the hidden units of an additive score; without them the diagnostic is not offered."""

SOFTMAX = frozenset({"softmax"})
EXPONENTIAL = frozenset({"softmax", "softmax_one"})


@dataclass(frozen=True, slots=True, eq=False)
class Diagnostic:
    """One figure per row, equal to itself alone: by its fields, hashing all members takes 5 µs.

    `needs` says what it follows from, `least_keys` how many visible keys it takes to be defined,
    `aggregated` whether mean, minimum and maximum over rows mean something. `normalizers` are those
    it is defined for (None = all); where `trivial_for_softmax`, softmax answers leave it out, and
    `softmax_value` is what it would be in every row where it is defined.
    """

    name: str
    meaning: str
    formula: str
    unit: str
    range: str
    source: str
    compute: Callable[[Rows], Figures]
    needs: Need = "weights"
    least_keys: int = 1
    aggregated: bool = True
    normalizers: frozenset[str] | None = None
    trivial_for_softmax: bool = False
    softmax_value: float | None = None

    @property
    def domain(self) -> str:
        """Where it is defined, in words."""
        where = "every row"
        if self.least_keys:
            keys = "a visible key" if self.least_keys == 1 else "at least two visible keys"
            where = f"rows with {keys} and finite logits"
        if self.normalizers is not None:
            where += f"; normalizer {self.listed_normalizers}"
        return where + ("; additive and concat scores" if self.needs == "hidden" else "")

    @property
    def listed_normalizers(self) -> str:
        """The normalisers it is defined for, in words."""
        return ", ".join(sorted(self.normalizers or ()))

    def per_row(self, rows: Rows) -> Tensor:
        """The figure of every row (…, N), NaN where it is undefined."""
        return evaluate((self,), rows)[self.name]


def evaluate(members: Sequence[Diagnostic], rows: Rows) -> dict[str, Tensor]:
    """The figures of every row (…, N) by name, NaN where they are undefined."""
    figures = np.empty((len(members), *rows.visible.shape))
    evaluate_into(members, rows, figures)
    return dict(zip((member.name for member in members), torch.from_numpy(figures), strict=True))


def evaluate_into(members: Sequence[Diagnostic], rows: Rows, figures: Figures) -> None:
    """Write the figures of every row (member, …, N), NaN where they are undefined."""
    with np.errstate(all="ignore"):
        compute(members, rows, figures)
        if not (rows.complete and math.isfinite(figures.sum())):
            undefine(members, rows, figures)


def compute(members: Sequence[Diagnostic], rows: Rows, out: Figures) -> None:
    """Write the members' figures (member, …, N), whatever they are where they are undefined."""
    for figures, member in zip(out, members, strict=True):
        figures[...] = member.compute(rows)


def undefine(members: Sequence[Diagnostic], rows: Rows, figures: Figures) -> None:
    """Make figures (member, …, N) NaN where they are undefined."""
    least = np.array([member.least_keys for member in members])
    least = least.reshape(-1, *(1 for _ in rows.visible.shape))
    lacking: NDArray[np.bool_] = (rows.visible < least) | ~rows.sound | ~np.isfinite(figures)
    figures[lacking & (least > 0)] = np.nan
