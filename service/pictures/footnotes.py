"""The lines below a picture: what its patterns mean, then its caption."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from service.pictures.lettering import wide, wrapped
from service.pictures.palettes import Palette
from service.pictures.pixels import Pattern, patterned
from service.pictures.sheet import show

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINE = 20
"""Pixels from line to line."""

_SIZE = 7.0
_SWATCH = (14, 34)
_GAP = 8


def draw_swatches(
    axes: "Axes", swatches: Sequence[tuple[str, Pattern]], left: float, top: float, palette: Palette
) -> None:
    """A sample of each pattern with its meaning, in one line; axes in pixels."""
    height, width = _SWATCH
    for meaning, pattern in swatches:
        show(axes, patterned(pattern(height, width), palette), left, top)
        right, bottom = left + width, top + height
        outline = ([left, right, right, left, left], [top, top, bottom, bottom, top])
        axes.plot(*outline, color=palette.ink, linewidth=0.6)
        axes.text(right + _GAP, top + height / 2, meaning, fontsize=_SIZE, va="center_baseline")
        left = right + wide(meaning, _SIZE) + 4 * _GAP


def caption_lines(sentences: Sequence[str], width: float) -> list[str]:
    """The sentences in lines of at most `width` pixels."""
    return wrapped(" ".join(sentences), _SIZE, width)


def draw_caption(axes: "Axes", lines: Sequence[str], left: float, top: float) -> None:
    """The lines below one another; axes in pixels."""
    for number, text in enumerate(lines):
        axes.text(left, top + number * LINE, text, fontsize=_SIZE, va="top")
