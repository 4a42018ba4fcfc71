"""Mean, minimum and maximum over the rows where a figure is defined."""

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


def aggregate(figures: Tensor, unit: str) -> Aggregated:
    """Aggregate (batch, heads, N) over its last axis, skipping NaN and −∞."""
    defined = torch.isfinite(figures)
    rows = defined.sum(-1)
    some = rows > 0
    nan = float("nan")
    mean = torch.where(defined, figures, 0.0).sum(-1) / rows.clamp(min=1)
    low = torch.where(defined, figures, float("inf")).amin(-1)
    high = torch.where(defined, figures, float("-inf")).amax(-1)
    return Aggregated(
        unit,
        torch.where(some, mean, nan),
        torch.where(some, low, nan),
        torch.where(some, high, nan),
        rows,
    )


def undefined(batch: int, heads: int, unit: str, reason: str) -> Aggregated:
    """A figure that these inputs do not give."""
    nan = torch.full((batch, heads), float("nan"), dtype=torch.float64)
    return Aggregated(unit, nan, nan, nan, torch.zeros(batch, heads, dtype=torch.int64), reason)
