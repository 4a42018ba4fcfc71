"""What a diagnostic is: arithmetic on the statistics of the rows, with its meaning beside it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from service.attention.normalizing import Exponential, Weighing
from service.attention.statistics import RowStatistics

Need = Literal["weights", "logits", "scores", "hidden"]
"""`hidden`: the hidden units of an additive score; without them the diagnostic is not offered."""

SOFTMAX = frozenset({"softmax"})
EXPONENTIAL = frozenset({"softmax", "softmax_one"})


@dataclass(frozen=True, slots=True)
class Rows:
    """The statistics of all rows (batch, heads, N) in float64, and what follows at once.

    l = 1 + tail is Σ exp(s − m) and `log_total` its logarithm; P the largest weight;
    Q = Σ_{j≠a} p² and R = Σ_{j≠a} p³ of the softmax. `entropy` and `sum_of_squares` are those of
    the row over its sum. Scores are those before scale, softcap and bias; `figures` came with them,
    summed over the visible keys, and `constants` hold for all rows.
    """

    statistics: RowStatistics
    log_visible: Tensor
    total: Tensor
    log_partition: Tensor
    entropy: Tensor
    row_sum: Tensor
    largest: Tensor
    sum_of_squares: Tensor
    support: Tensor
    squares: Tensor
    cubes: Tensor
    score_mean: Tensor
    score_variance: Tensor
    score_max_abs: Tensor
    figures: Mapping[str, Tensor]
    constants: Mapping[str, float]

    @classmethod
    def of(
        cls,
        statistics: RowStatistics,
        *,
        scale: float | None,
        weighing: Weighing | None = None,
        weight_sums: Tensor | None = None,
        figures: Mapping[str, Tensor] | None = None,
        constants: Mapping[str, float] | None = None,
    ) -> "Rows":
        """Figures of rows.

        Args:
            statistics: of the logits.
            scale: the scores follow from the logits by 1/scale, or were collected (None).
            weighing: the normaliser; absent = softmax.
            weight_sums: (6, batch, heads, N) where it makes weights directly.
            figures: sums over the visible keys of what came with the scores.
            constants: figures that hold for all rows.
        """
        count = statistics.visible.clamp(min=1)
        total = 1 + statistics.tail
        squares = statistics.tail2 / total**2
        weights = (
            _exponential(statistics, total, squares, weighing)
            if weight_sums is None
            else _direct(weight_sums)
        )
        if scale is None:
            mean, score_squares = statistics.score_mean, statistics.score_squares
            largest = statistics.score_max_abs
        else:
            mean, score_squares = statistics.mean / scale, statistics.squares / scale / scale
            extreme = torch.maximum(statistics.maximum.abs(), statistics.minimum.abs())
            largest = extreme / abs(scale)
        return cls(
            statistics=statistics,
            log_visible=count.log(),
            total=total,
            squares=squares,
            cubes=statistics.tail3 / total**3,
            score_mean=mean,
            score_variance=score_squares / count,
            score_max_abs=largest,
            figures=figures or {},
            constants=constants or {},
            **weights,
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


def _exponential(
    statistics: RowStatistics, total: Tensor, squares: Tensor, weighing: Weighing | None
) -> dict[str, Tensor]:
    """Weights that are exponentials over a divisor of the row."""
    log_total = torch.log1p(statistics.tail)
    log_partition, divisor = statistics.maximum + log_total, total
    row_sum = torch.ones_like(total)
    if isinstance(weighing, Exponential):
        log_partition = weighing.log_partition(log_partition)
        divisor = weighing.divisor(total, statistics.maximum)
        row_sum = total / divisor
    none = torch.full_like(total, float("-inf"))
    return {
        "log_partition": torch.where(statistics.visible > 0, log_partition, none),
        # No ε inside a logarithm, no difference of large numbers.
        "entropy": log_total - statistics.gap1 / total,
        "row_sum": row_sum,
        "largest": 1 / divisor,
        "sum_of_squares": (1 / total).square() + squares,
        "support": statistics.visible,
    }


def _direct(sums: Tensor) -> dict[str, Tensor]:
    """Weights that were summed as they are: Σ w, Σ w², −Σ w ln w, the largest, the support."""
    total, squares, entropies, largest, support = sums[:5].unbind()
    return {
        "log_partition": torch.full_like(total, float("nan")),
        "entropy": (entropies / total + total.log()).clamp(min=0),
        "row_sum": total,
        "largest": largest,
        "sum_of_squares": squares / total.square(),
        "support": support,
    }


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One figure per row.

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
    compute: Callable[[Rows], Tensor]
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
