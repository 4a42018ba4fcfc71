"""Figures as an answer writes them, None where undefined, and how far two outputs are apart."""

import math

import torch
from torch import Tensor

_PIECE = 2**16


def finite(value: float) -> float | None:
    """None where it is NaN or infinite."""
    return value if math.isfinite(value) else None


def plain(figures: Tensor) -> list[float | None]:
    """A vector as a list."""
    return [finite(value) for value in figures.tolist()]


def relative_change(own: Tensor, other: Tensor) -> float | None:
    """‖own − other‖₂ / ‖other‖₂ of (batch, heads, …), summed in float64; None where undefined."""
    return _relative(_squares(own, other).sum((0, 1)))


def relative_changes(own: Tensor, other: Tensor) -> list[float | None]:
    """The same of each head."""
    return [_relative(head) for head in _squares(own, other).sum(0)]


def _relative(squares: Tensor) -> float | None:
    apart, whole = squares.sqrt().tolist()
    return finite(apart / whole) if whole else None


def _squares(own: Tensor, other: Tensor) -> Tensor:
    """Σ (own − other)² and Σ other² (batch, heads, 2), in pieces: no wide copy of an output."""
    batch, heads = own.shape[:2]
    found = torch.zeros(batch, heads, 2, dtype=torch.float64)
    for item in range(batch):
        for head in range(heads):
            pair = own[item, head].flatten(), other[item, head].flatten()
            for start in range(0, pair[0].numel(), _PIECE):
                mine, theirs = (tensor[start : start + _PIECE] for tensor in pair)
                wide = theirs.double()
                found[item, head, 0] += (mine.double() - wide).square().sum().cpu()
                found[item, head, 1] += wide.square().sum().cpu()
    return found
