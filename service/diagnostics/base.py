"""What a diagnostic is: arithmetic on the statistics of the rows, with its meaning beside it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from service.attention.statistics import RowStatistics

Need = Literal["weights", "logits", "scores"]


@dataclass(frozen=True, slots=True)
class Rows:
    """The statistics of all rows (batch, heads, N) in float64, and what follows at once.

    l = 1 + tail is Σ exp(s − m) and `log_total` its logarithm; P = 1/l the largest weight;
    Q = Σ_{j≠a} p² and R = Σ_{j≠a} p³. Scores are those before scale, softcap and bias.
    """

    statistics: RowStatistics
    log_visible: Tensor
    total: Tensor
    log_total: Tensor
    entropy: Tensor
    largest: Tensor
    squares: Tensor
    cubes: Tensor
    score_mean: Tensor
    score_variance: Tensor
    score_max_abs: Tensor

    @classmethod
    def of(cls, statistics: RowStatistics, *, scale: float | None) -> "Rows":
        """Rows whose scores were collected (scale None), or follow from the logits by 1/scale."""
        total = 1 + statistics.tail
        count = statistics.visible.clamp(min=1)
        if scale is None:
            mean, squares = statistics.score_mean, statistics.score_squares
            largest = statistics.score_max_abs
        else:
            mean, squares = statistics.mean / scale, statistics.squares / scale / scale
            extreme = torch.maximum(statistics.maximum.abs(), statistics.minimum.abs())
            largest = extreme / abs(scale)
        log_total = torch.log1p(statistics.tail)
        return cls(
            statistics=statistics,
            log_visible=count.log(),
            total=total,
            log_total=log_total,
            # No ε inside a logarithm, no difference of large numbers.
            entropy=log_total - statistics.gap1 / total,
            largest=1 / total,
            squares=statistics.tail2 / total**2,
            cubes=statistics.tail3 / total**3,
            score_mean=mean,
            score_variance=squares / count,
            score_max_abs=largest,
        )

    @property
    def visible(self) -> Tensor:
        """How many keys each row sees."""
        return self.statistics.visible

    @property
    def sound(self) -> Tensor:
        """Rows without an overflowed logit."""
        return self.statistics.overflowed == 0

    @property
    def complete(self) -> bool:
        """Whether every row sees two keys and has no overflowed logit."""
        few = bool((self.visible < 2).any())
        return not few and not bool(self.statistics.overflowed.any())


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One figure per row.

    `needs` says what it follows from, `least_keys` how many visible keys it takes to be defined,
    `aggregated` whether mean, minimum and maximum over rows mean something.
    """

    name: str
    meaning: str
    formula: str
    unit: str
    range: str
    source: str
    compute: Callable[[Rows], Tensor]
    needs: Need = "weights"
    least_keys: int = 1
    aggregated: bool = True

    @property
    def domain(self) -> str:
        """Where it is defined, in words."""
        if self.least_keys == 0:
            return "every row"
        keys = "a visible key" if self.least_keys == 1 else "at least two visible keys"
        return f"rows with {keys} and finite logits"

    def per_row(self, rows: Rows) -> Tensor:
        """The figure of every row (batch, heads, N), NaN where it is undefined."""
        return evaluate((self,), rows)[self.name]


def evaluate(members: Sequence[Diagnostic], rows: Rows) -> dict[str, Tensor]:
    """The figures of every row (batch, heads, N) by name, NaN where they are undefined.

    All at once: the figures of a small request are far quicker than one operation on each.
    """
    figures = torch.stack([member.compute(rows) for member in members])
    if not (rows.complete and math.isfinite(figures.sum())):
        least = torch.tensor([member.least_keys for member in members]).view(-1, 1, 1, 1)
        defined = (rows.visible >= least) & rows.sound & torch.isfinite(figures)
        figures = torch.where(defined | (least == 0), figures, float("nan"))
    return dict(zip((member.name for member in members), figures, strict=True))
