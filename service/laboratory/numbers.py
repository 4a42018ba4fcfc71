"""Figures as an answer writes them, None where undefined, and how far two outputs are apart."""

import math

from torch import Tensor


def finite(value: float) -> float | None:
    """None where it is NaN or infinite."""
    return value if math.isfinite(value) else None


def plain(figures: Tensor) -> list[float | None]:
    """A vector as a list."""
    return [finite(value) for value in figures.tolist()]


def relative_change(own: Tensor, other: Tensor) -> float | None:
    """‖own − other‖₂ / ‖other‖₂ in float64, None where that is undefined."""
    wide = other.double()
    return finite(float((own.double() - wide).norm() / wide.norm()))


def relative_changes(own: Tensor, other: Tensor) -> list[float | None]:
    """The same of each head of (batch, heads, …)."""
    pairs = zip(own.unbind(1), other.unbind(1), strict=True)
    return [relative_change(mine, theirs) for mine, theirs in pairs]
