"""The statistics of the rows as arrays, and what follows from them at once.

In numpy: a request of few rows is some hundred operations on next to nothing, where torch takes
several times as long for each and hands the interpreter over to another thread every time
(measured, all that a tally does for 80 rows: 0.38 ms in torch, 0.15 ms so). Every operation is of
each row alone, so that a row's figures depend neither on its companions nor on how the rows are cut
into parts.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.attention.normalizing import Exponential, Weighing
from service.attention.statistics import RowStatistics

Figures = NDArray[np.float64]


class Columns(NamedTuple):
    """The fields of `RowStatistics`, as arrays that share its memory."""

    visible: Figures
    maximum: Figures
    second: Figures
    minimum: Figures
    argmax: Figures
    tail: Figures
    tail2: Figures
    tail3: Figures
    gap1: Figures
    spread: Figures
    mean: Figures
    squares: Figures
    overflowed: Figures
    underflowed: Figures
    score_mean: Figures
    score_squares: Figures
    score_max_abs: Figures

    @classmethod
    def of(cls, statistics: RowStatistics) -> "Columns":
        """Of statistics that lie on the CPU."""
        return cls(*(getattr(statistics, name).numpy() for name in _NAMES))


_NAMES = tuple(f.name for f in fields(RowStatistics))


@dataclass(slots=True)
class Rows:
    """The statistics of rows (…, N) in float64, and what follows at once.

    l = 1 + tail is Σ exp(s − m) and `log_total` its logarithm; P the largest weight;
    Q = Σ_{j≠a} p² and R = Σ_{j≠a} p³ of the softmax, `rest` = tail/l what its argmax leaves.
    `entropy` and `sum_of_squares` are those of the row over its sum. Scores are those before
    scale, softcap and bias; `figures` came with them, summed over the visible keys, and `constants`
    hold for all rows. `count` is how many keys a row sees, at least 1; it and its logarithm are one
    number where all rows see as many. `complete` says whether every row sees two keys and has no
    overflowed logit.
    """

    statistics: Columns
    complete: bool
    count: Figures
    log_visible: Figures
    total: Figures
    log_partition: Figures
    entropy: Figures
    row_sum: Figures
    largest: Figures
    sum_of_squares: Figures
    support: Figures
    rest: Figures
    squares: Figures
    cubes: Figures
    variance: Figures
    max_abs: Figures
    score_mean: Figures
    score_variance: Figures
    score_max_abs: Figures
    figures: Mapping[str, Figures]
    constants: Mapping[str, float]

    @classmethod
    def of(
        cls,
        statistics: RowStatistics,
        *,
        scale: float | None,
        weighing: Weighing | None = None,
        weight_sums: Tensor | None = None,
    ) -> "Rows":
        """Of the rows of one pass: see `rows_of`."""
        sums = None if weight_sums is None else weight_sums.numpy()
        return rows_of(Columns.of(statistics), scale=scale, weighing=weighing, weight_sums=sums)

    @property
    def visible(self) -> Figures:
        """How many keys each row sees."""
        return self.statistics.visible

    @property
    def sound(self) -> NDArray[np.bool_]:
        """Rows without an overflowed logit."""
        sound: NDArray[np.bool_] = self.statistics.overflowed == 0
        return sound


def rows_of(
    statistics: Columns,
    *,
    scale: float | None,
    weighing: Weighing | None = None,
    weight_sums: Figures | None = None,
    figures: Mapping[str, Figures] | None = None,
    constants: Mapping[str, float] | None = None,
) -> Rows:
    """What follows from the statistics of rows.

    Args:
        statistics: of the logits.
        scale: the scores follow from the logits by 1/scale, or were collected (None).
        weighing: the normaliser; absent = softmax.
        weight_sums: (6, …, N) where it makes weights directly.
        figures: sums over the visible keys of what came with the scores.
        constants: figures that hold for all rows.
    """
    with np.errstate(all="ignore"):
        fewest, count = _count(statistics.visible)
        total = 1 + statistics.tail
        inverse = 1 / total
        squares = statistics.tail2 * inverse * inverse
        if weight_sums is None:
            weights = _exponential(statistics, total, inverse, squares, weighing)
            if fewest < 1:
                # Without a key the maximum is −∞ already, but a divisor may have a constant.
                some = statistics.visible > 0
                weights["log_partition"] = np.where(some, weights["log_partition"], -np.inf)
        else:
            weights = _direct(weight_sums)
        variance = statistics.squares / count
        max_abs = np.maximum(np.abs(statistics.maximum), np.abs(statistics.minimum))
        if scale is None:
            mean, largest = statistics.score_mean, statistics.score_max_abs
            score_variance = statistics.score_squares / count
        else:
            mean, largest = statistics.mean / scale, max_abs / abs(scale)
            score_variance = variance / scale / scale
        return Rows(
            statistics=statistics,
            complete=fewest >= 2 and not statistics.overflowed.any(),
            count=count,
            log_visible=np.log(count),
            total=total,
            rest=statistics.tail * inverse,
            squares=squares,
            cubes=statistics.tail3 * inverse * inverse * inverse,
            variance=variance,
            max_abs=max_abs,
            score_mean=mean,
            score_variance=score_variance,
            score_max_abs=largest,
            figures=figures or {},
            constants=constants or {},
            **weights,
        )


def _count(visible: Figures) -> tuple[float, Figures]:
    """The fewest keys a row sees, and how many each does, at least 1: once where all are alike."""
    if visible.size == 0:
        return 2.0, visible
    fewest = float(visible.min())
    if fewest == float(visible.max()):
        return fewest, np.full((1,) * visible.ndim, max(fewest, 1.0))
    return fewest, np.maximum(visible, 1.0)


def _exponential(
    statistics: Columns,
    total: Figures,
    inverse: Figures,
    squares: Figures,
    weighing: Weighing | None,
) -> dict[str, Figures]:
    """Weights that are exponentials over a divisor of the row."""
    log_total = np.log1p(statistics.tail)
    log_partition, largest = statistics.maximum + log_total, inverse
    row_sum = np.ones((1,) * total.ndim)
    if isinstance(weighing, Exponential):
        wide = torch.from_numpy(total)
        divisor = weighing.divisor(wide, torch.from_numpy(statistics.maximum))
        log_partition = weighing.log_partition(torch.from_numpy(log_partition)).numpy()
        if divisor is not wide:
            largest = 1 / divisor.numpy()
            row_sum = total * largest
    return {
        "log_partition": log_partition,
        # No ε inside a logarithm, no difference of large numbers.
        "entropy": log_total - statistics.gap1 * inverse,
        "row_sum": row_sum,
        "largest": largest,
        "sum_of_squares": inverse * inverse + squares,
        "support": statistics.visible,
    }


def _direct(sums: Figures) -> dict[str, Figures]:
    """Weights that were summed as they are: Σ w, Σ w², −Σ w ln w, the largest, the support."""
    total, squares, entropies, largest, support = sums[:5]
    return {
        "log_partition": np.full((1,) * total.ndim, np.nan),
        "entropy": np.maximum(entropies / total + np.log(total), 0.0),
        "row_sum": total,
        "largest": largest,
        "sum_of_squares": squares / np.square(total),
        "support": support,
    }
