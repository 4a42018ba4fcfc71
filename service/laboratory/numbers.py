"""Figures as an answer writes them, None where undefined, and how far two outputs are apart."""

import math
from itertools import product

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
    return _relative(*_squares(own, other).sum((0, 1)).sqrt().tolist())


def relative_changes(own: Tensor, other: Tensor) -> list[float | None]:
    """The same of each head."""
    return [_relative(*pair) for pair in _squares(own, other).sum(0).sqrt().tolist()]


def _relative(apart: float, whole: float) -> float | None:
    return finite(apart / whole) if whole else None


def _squares(own: Tensor, other: Tensor) -> Tensor:
    """Σ (own − other)² and Σ other² (batch, heads, 2), in pieces: no wide copy of an output."""
    found = torch.zeros(*own.shape[:2], 2, dtype=torch.float64)
    for item, pair in enumerate(zip(own, other, strict=True)):
        mine, theirs = (tensor.flatten(1) for tensor in pair)
        heads, width = mine.shape
        step = max(1, _PIECE // width)
        for first, start in product(range(0, heads, step), range(0, width, _PIECE)):
            piece = slice(first, first + step), slice(start, start + _PIECE)
            wide = theirs[piece].double()
            apart = (mine[piece].double() - wide).square().sum(-1)
            found[item, piece[0]] += torch.stack([apart, wide.square().sum(-1)], -1).cpu()
    return found
