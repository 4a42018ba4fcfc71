"""From a matrix of weights to the pixels of its panel.

A matrix with fewer positions than the panel has pixels is enlarged. One with more is reduced by
the largest weight of each block, so that a single weight of 1 among zeros is still seen.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.pictures.palettes import WEIGHT_COLOURS, Palette

Weights = NDArray[np.float32]
Cells = NDArray[np.bool_]
Colours = NDArray[np.uint8]
Pattern = Callable[[int, int], Cells]

_PERIOD = 8
_LINE = 3


@dataclass(frozen=True, slots=True)
class Raster:
    """A panel's pixels, each (height, width): weights, what is hidden, what is no number."""

    weights: Weights
    hidden: Cells
    undefined: Cells

    @classmethod
    def of(cls, weights: Weights, hidden: Cells | None, height: int, width: int) -> "Raster":
        """Weights (query, key) and what a mask hides of them, in a panel of that size.

        A pixel is hidden or undefined only where all that it stands for is.
        """
        if hidden is None:
            hidden = np.zeros(weights.shape, dtype=np.bool_)
        seen = np.isfinite(weights) & ~hidden
        largest = _spread(np.where(seen, weights, -np.inf), np.maximum, height, width)
        covered = _spread(hidden, np.logical_and, height, width)
        empty = np.isneginf(largest)
        return cls(np.where(empty, 0, largest).clip(min=0), covered, empty & ~covered)

    @property
    def largest(self) -> float:
        """The largest weight shown."""
        return float(self.weights.max())


def coloured(raster: Raster, top: float, palette: Palette) -> Colours:
    """The pixels' colours (height, width, 3) on a scale from 0 to `top`."""
    shown = scale_colours(raster.weights / np.float32(top))
    patterns = ((raster.hidden, hatched), (raster.undefined, dotted))
    for cells, pattern in patterns:
        if cells.any():
            shown[cells] = patterned(pattern(*cells.shape), palette)[cells]
    return shown


def scale_colours(shares: NDArray[Any]) -> Colours:
    """Colours (…, 3) of shares of the scale, between 0 and 1."""
    from matplotlib import colormaps

    return np.asarray(colormaps[WEIGHT_COLOURS](shares, bytes=True))[..., :3]


def hatched(height: int, width: int) -> Cells:
    """Where diagonal lines are, (height, width): what a mask hides."""
    diagonal = np.add.outer(np.arange(height), np.arange(width))
    return diagonal % _PERIOD < _LINE


def dotted(height: int, width: int) -> Cells:
    """Where dots in rows and columns are, (height, width): what is no number."""
    down, right = (np.arange(extent) % _PERIOD < _LINE for extent in (height, width))
    return np.logical_and.outer(down, right)


def patterned(pattern: Cells, palette: Palette) -> Colours:
    """The pattern's colours (height, width, 3)."""
    tones = np.array([_rgb(palette.hatched), _rgb(palette.hatch)])
    return tones[pattern.astype(np.intp)]


def _rgb(colour: str) -> Colours:
    return np.frombuffer(bytes.fromhex(colour[1:]), dtype=np.uint8)


def _spread(matrix: NDArray[Any], reduce: np.ufunc, height: int, width: int) -> NDArray[Any]:
    """The matrix on so many pixels; where they are fewer, each stands for a block."""
    for axis, extent in enumerate((height, width)):
        places = np.arange(extent) * matrix.shape[axis] // extent
        fewer = extent < matrix.shape[axis]
        matrix = reduce.reduceat(matrix, places, axis) if fewer else matrix.take(places, axis)
    return matrix
