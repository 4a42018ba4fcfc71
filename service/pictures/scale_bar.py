"""The bar that says which colour is which weight."""

from typing import TYPE_CHECKING

import numpy as np

from service.pictures.grid import Grid
from service.pictures.pixels import scale_colours
from service.pictures.sheet import axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROOM = 150
"""Pixels that the bar, its ticks and its label take right of the panels."""

_GAP = 30
_WIDTH = 22
_TALLEST = 480


def draw_scale_bar(figure: "Figure", grid: Grid, largest: float, quantity: str) -> None:
    """A bar from 0 to the largest weight, right of the panels."""
    (top, left), (height, width) = grid.corner(0), grid.extent
    bar = axes(figure, (left + width + _GAP, top, _WIDTH, min(height, _TALLEST)))
    shades = scale_colours(np.linspace(1, 0, 256))[:, None]
    bar.imshow(shades, extent=(0, 1, 0, largest), aspect="auto", interpolation="nearest")
    bar.xaxis.set_visible(False)
    bar.yaxis.tick_right()
    bar.yaxis.set_label_position("right")
    bar.tick_params(labelsize=7, length=3, width=0.6)
    bar.set_ylabel(quantity, fontsize=8, labelpad=7)
