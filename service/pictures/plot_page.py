"""A sheet of plots: a title, one legend for all, the plots in a grid, a caption."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.pictures.footnotes import LINE, caption_lines, draw_caption
from service.pictures.grid import Borders, Grid
from service.pictures.headline import HEADLINE, draw_headline
from service.pictures.legend import Entry, Legend
from service.pictures.sheet import EDGE, axes, sheet, whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BESIDE = 78
_ABOVE = 52
_BELOW = 62
_AFTER = 26
"""Pixels of the texts left of a plot, above, below and right of it."""


@dataclass(frozen=True, slots=True)
class PlotPage:
    """The sheet, the title that was written on it, and its empty plots, row by row."""

    figure: "Figure"
    title: str
    plots: "Sequence[Axes]"


def plot_page(
    title: str,
    entries: Sequence[Entry],
    caption: Sequence[str],
    *,
    plots: int,
    columns: int,
    size: tuple[int, int],
) -> PlotPage:
    """A page with so many plots of one size, height and width in pixels."""
    width = columns * (_BESIDE + size[1] + _AFTER) + 2 * EDGE
    legend = Legend(entries, width - 2 * EDGE)
    lines = caption_lines(caption, width - 2 * EDGE)
    borders = Borders(
        left=_BESIDE + EDGE,
        top=HEADLINE + legend.height + _ABOVE,
        right=_AFTER + EDGE,
        bottom=_BELOW + len(lines) * LINE + EDGE,
        across=_AFTER + _BESIDE,
        down=_BELOW + _ABOVE,
    )
    grid = Grid(plots, columns, size, borders)
    figure = sheet(width, grid.sheet[0])
    page = whole(figure)
    legend.draw(page, EDGE, HEADLINE)
    draw_caption(page, lines, EDGE, grid.sheet[0] - len(lines) * LINE - EDGE)
    empty = [axes(figure, grid.box(index)) for index in range(plots)]
    return PlotPage(figure, draw_headline(page, title), empty)
