"""Mean, minimum and maximum over the rows where a figure is defined."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.diagnostics.rows import Figures

Numbers = NDArray[np.int64]

REGIMES = 4
"""Counts of rows by regime: see `Summary`."""
COUNTS = 3
"""What else is counted of rows: see `Summary`."""


@dataclass(frozen=True, slots=True)
class Aggregated:
    """Per (batch, head): mean, minimum, maximum (NaN without a row) and the number of rows."""

    unit: str
    mean: Tensor
    minimum: Tensor
    maximum: Tensor
    rows: Tensor
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Aggregates(Mapping[str, Aggregated]):
    """Aggregates of many figures, held together: by name they are cut out when asked for.

    `figures` (3, figure, batch, heads): mean, minimum, maximum, NaN without a row; `rows`
    (figure, batch, heads): the number of rows. `units` names them in order, `reasons` says why some
    are undefined.
    """

    units: Mapping[str, str]
    figures: Figures
    rows: Numbers
    reasons: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Aggregated:
        return self._cut(name, self._place(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self.units)

    def __len__(self) -> int:
        return len(self.units)

    def _place(self, name: str) -> int:
        if name not in self.units:
            raise KeyError(name)
        return list(self.units).index(name)

    def _cut(self, name: str, place: int) -> Aggregated:
        mean, low, high = map(torch.from_numpy, self.figures[:, place])
        rows = torch.from_numpy(self.rows[place])
        return Aggregated(self.units[name], mean, low, high, rows, self.reasons.get(name))

    def only(self, name: str) -> "Aggregates":
        """One of them."""
        own = slice(place := self._place(name), place + 1)
        return Aggregates({name: self.units[name]}, self.figures[:, own], self.rows[own])

    def with_others(self, others: "Aggregates") -> "Aggregates":
        """These, and others after them; one of the same name takes its place."""
        kept = [place for place, name in enumerate(self.units) if name not in others.units]
        units = {name: unit for name, unit in self.units.items() if name not in others.units}
        return Aggregates(
            {**units, **others.units},
            np.concatenate([self.figures[:, kept], others.figures], 1),
            np.concatenate([self.rows[kept], others.rows]),
            {**self.reasons, **others.reasons},
        )

    def part(self, items: slice) -> "Aggregates":
        """The same of some batch items."""
        return Aggregates(self.units, self.figures[:, :, items], self.rows[:, items], self.reasons)

    def defines(self, name: str) -> bool:
        """Whether the figure is there, and follows from the inputs."""
        return name in self.units and name not in self.reasons

    def means(self, name: str) -> Figures:
        """Of each (batch, head)."""
        found: Figures = self.figures[0, self._place(name)]
        return found

    def maxima(self, name: str) -> Figures:
        """Of each (batch, head)."""
        found: Figures = self.figures[2, self._place(name)]
        return found

    def mean(self, name: str) -> float | None:
        """Over all rows where the figure is defined; None where there is none."""
        if name not in self.units:
            return None
        place = self._place(name)
        counts = self.rows[place].ravel().tolist()
        if not (rows := sum(counts)):
            return None
        means = self.figures[0, place].ravel().tolist()
        total = math.fsum(m * n for m, n in zip(means, counts, strict=True) if n)
        return total / float(rows)


@dataclass(slots=True)
class Sums:
    """Sum, minimum, maximum and number of the finite figures along the last axis.

    All (figure, …), for disjoint ranges of rows to be put together.
    """

    total: Figures
    lowest: Figures
    highest: Figures
    rows: Numbers

    @classmethod
    def empty(cls, *shape: int) -> "Sums":
        """Of no rows yet."""
        low, high = np.full(shape, np.inf), np.full(shape, -np.inf)
        return cls(np.zeros(shape), low, high, np.zeros(shape, dtype=np.int64))

    @classmethod
    def of(cls, figures: Figures) -> "Sums":
        """Of figures (figure, …, N)."""
        wide = torch.from_numpy(figures)
        total = wide.sum(-1).numpy()
        if math.isfinite(total.sum()):
            return cls(total, *_extremes(wide, wide), np.full(total.shape, figures.shape[-1]))
        finite = torch.isfinite(wide)
        return cls(
            torch.where(finite, wide, 0.0).sum(-1).numpy(),
            *_extremes(torch.where(finite, wide, math.inf), torch.where(finite, wide, -math.inf)),
            finite.sum(-1).numpy(),
        )

    def add(self, more: "Sums", heads: slice) -> None:
        """Put in further rows of some heads."""
        self.total[:, heads] += more.total
        self.rows[:, heads] += more.rows
        for own, further, choose in (
            (self.lowest, more.lowest, np.minimum),
            (self.highest, more.highest, np.maximum),
        ):
            choose(own[:, heads], further, out=own[:, heads])

    def reshape(self, shape: tuple[int, ...]) -> "Sums":
        """With other axes after the first."""
        total, low, high = (c.reshape(shape) for c in (self.total, self.lowest, self.highest))
        return Sums(total, low, high, self.rows.reshape(shape))

    def first(self, count: int) -> "Sums":
        """Those of so many figures."""
        total, low, high = (c[:count] for c in (self.total, self.lowest, self.highest))
        return Sums(total, low, high, self.rows[:count])

    def figures(self) -> Figures:
        """Mean, minimum and maximum (3, figure, …), NaN without a row."""
        found = np.empty((3, *self.rows.shape))
        found[1], found[2] = self.lowest, self.highest
        if self.rows.all():
            np.divide(self.total, self.rows, out=found[0])
            return found
        with np.errstate(all="ignore"):
            np.divide(self.total, self.rows, out=found[0])
        found[:, self.rows == 0] = np.nan
        return found


@dataclass(frozen=True, slots=True)
class Summary:
    """Of diagnostics over all rows.

    `sums` (member, batch, heads); `regimes` (REGIMES, batch, heads): the rows that are saturated,
    sharp, diffuse, and that have a regime, where the members tell them; `counts` (COUNTS, batch,
    heads): rows without a key, flushed weights, overflowed logits; `figures` (member, batch, heads,
    N), where they are kept.
    """

    sums: Sums
    regimes: Numbers | None
    counts: Numbers
    figures: Figures | None


def _extremes(low: Tensor, high: Tensor) -> tuple[Figures, Figures]:
    """By torch: over short rows numpy takes three times as long, measured at 128."""
    return low.amin(-1).numpy(), high.amax(-1).numpy()


def aggregate(figures: Tensor, unit: str) -> Aggregated:
    """Aggregate (batch, heads, N) over its last axis, skipping NaN and infinities."""
    return aggregate_all({"": figures}, {"": unit})[""]


def aggregate_all(figures: Mapping[str, Tensor], units: Mapping[str, str]) -> Aggregates:
    """Aggregate figures (batch, heads, N), at least one, over their last axis."""
    sums = Sums.of(np.stack([figures[name].numpy() for name in units]))
    return Aggregates(units, sums.figures(), sums.rows)


def undefined(
    batch: int, heads: int, units: Mapping[str, str], reasons: Mapping[str, str]
) -> Aggregates:
    """Figures that these inputs do not give."""
    shape = (len(units), batch, heads)
    return Aggregates(units, np.full((3, *shape), np.nan), np.zeros(shape, np.int64), reasons)


def pooled(mean: Tensor, rows: Tensor, axes: tuple[int, ...] = (0, 1)) -> Tensor:
    """The mean over all rows along further axes of (batch, heads), NaN where there is none."""
    count = rows.double()
    total = torch.where(rows > 0, mean.double() * count, 0.0).sum(axes)
    return total / count.sum(axes)
