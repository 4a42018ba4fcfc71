"""The title of a picture."""

from typing import TYPE_CHECKING

from service.pictures.lettering import fitted, printable
from service.pictures.sheet import EDGE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEADLINE = 62
"""Pixels that it takes from the sheet's upper edge."""

_SIZE = 11.0
_LONGEST = 160


def draw_headline(axes: "Axes", title: str) -> str:
    """Write the title above everything else, and return what was written; axes in pixels."""
    width = axes.get_xlim()[1] - 2 * EDGE
    written = fitted(printable(title, _LONGEST), _SIZE, width)
    axes.text(EDGE, EDGE, written, fontsize=_SIZE, va="top")
    return written
