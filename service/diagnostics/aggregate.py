"""Mean, minimum and maximum over the rows where a figure is defined."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Aggregated:
    """Per (batch, head): mean, minimum, maximum (NaN without a row) and the number of rows."""

    unit: str
    mean: Tensor
    minimum: Tensor
    maximum: Tensor
    rows: Tensor
    reason: str | None = None

    def parts(self, sizes: list[int]) -> Iterator["Aggregated"]:
        """The same of consecutive batch items, so many at a time."""
        columns = self.mean, self.minimum, self.maximum, self.rows
        split = (column.split_with_sizes(sizes) for column in columns)
        for mean, low, high, rows in zip(*split, strict=True):
            yield Aggregated(self.unit, mean, low, high, rows, self.reason)


def aggregate(figures: Tensor, unit: str) -> Aggregated:
    """Aggregate (batch, heads, N) over its last axis, skipping NaN and infinities."""
    return aggregate_all({"": figures}, {"": unit})[""]


def aggregate_all(figures: Mapping[str, Tensor], units: Mapping[str, str]) -> dict[str, Aggregated]:
    """Aggregate many figures at once."""
    stacked = torch.stack(list(figures.values()))
    if math.isfinite(stacked.sum()):
        low, high = stacked.amin(-1), stacked.amax(-1)
        rows = torch.full(low.shape, stacked.shape[-1])
    else:
        defined, nan = torch.isfinite(stacked), float("nan")
        rows = defined.sum(-1)
        none = rows == 0
        low = torch.where(defined, stacked, float("inf")).amin(-1).masked_fill_(none, nan)
        high = torch.where(defined, stacked, float("-inf")).amax(-1).masked_fill_(none, nan)
        stacked = torch.where(defined, stacked, 0.0)
    columns = zip(figures, stacked.sum(-1) / rows, low, high, rows, strict=True)
    return {name: Aggregated(units[name], *column) for name, *column in columns}


def pooled(mean: Tensor, rows: Tensor, axes: tuple[int, ...] = (0, 1)) -> Tensor:
    """The mean over all rows along further axes of (batch, heads), NaN where there is none."""
    count = rows.double()
    total = torch.where(rows > 0, mean.double() * count, 0.0).sum(axes)
    return total / count.sum(axes)


def undefined(batch: int, heads: int, unit: str, reason: str) -> Aggregated:
    """A figure that these inputs do not give."""
    nan = torch.full((batch, heads), float("nan"), dtype=torch.float64)
    return Aggregated(unit, nan, nan, nan, torch.zeros(batch, heads, dtype=torch.int64), reason)
