"""The sheet a picture is drawn on: its size in pixels, its style, its bytes.

matplotlib keeps its style in global state and lays text out with code that is not safe in threads,
so one picture is drawn at a time, and the style is put back after each.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

from service.pictures.lettering import DPI, families
from service.pictures.palettes import Palette
from service.pictures.pixels import Colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Form = Literal["png", "svg"]
Box = tuple[float, float, float, float]
"""Left, top, width and height in pixels, from the sheet's upper left corner."""

LARGEST = 2400
"""The most pixels of a sheet on either side."""
EDGE = 22
"""Pixels left free along the sheet's edges."""

_DRAWING = Lock()


@contextmanager
def drawing(palette: Palette) -> Iterator[None]:
    """Hold matplotlib, in the palette's style, whatever a matplotlibrc file says."""
    import matplotlib

    defaults = matplotlib.rcParamsDefault.items()
    style: dict[Any, Any] = {n: value for n, value in defaults if not n.startswith("backend")}
    with _DRAWING, matplotlib.rc_context(style | _style(palette)):
        yield


def sheet(width: int, height: int) -> "Figure":
    """An empty sheet of that many pixels."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width / DPI, height / DPI), dpi=DPI)


def axes(figure: "Figure", box: Box) -> "Axes":
    """Axes that fill the box."""
    width, height = figure.get_size_inches() * DPI
    left, top, wide, high = box
    return figure.add_axes((left / width, 1 - (top + high) / height, wide / width, high / height))


def whole(figure: "Figure") -> "Axes":
    """Axes over the whole sheet, in pixels from its upper left corner."""
    width, height = figure.get_size_inches() * DPI
    found = axes(figure, (0, 0, width, height))
    found.set(xlim=(0, width), ylim=(height, 0))
    found.set_axis_off()
    return found


def show(on: "Axes", colours: Colours, left: float, top: float) -> None:
    """Put an image, pixel for pixel, on axes that are in pixels."""
    height, width = colours.shape[:2]
    extent = (left, left + width, top + height, top)
    on.imshow(colours, extent=extent, aspect="auto", interpolation="nearest")


def encoded(figure: "Figure", form: Form, title: str) -> bytes:
    """The picture's bytes: the same for the same figure, whenever and wherever it is drawn."""
    metadata = {"Date": None, "Title": title} if form == "svg" else {"Software": None}
    buffer = BytesIO()
    figure.savefig(buffer, format=form, dpi=DPI, metadata=metadata)
    return buffer.getvalue()


def _style(palette: Palette) -> dict[str, Any]:
    inked = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    return {
        **dict.fromkeys(inked, palette.ink),
        "figure.facecolor": palette.page,
        "axes.facecolor": palette.page,
        "grid.color": palette.faint,
        "font.family": list(families()),
        "text.parse_math": False,
        # Hinted text is up to 4 % wider or narrower than what `wide` says.
        "text.hinting": "no_hinting",
        "axes.linewidth": 0.6,
        "axes.formatter.useoffset": False,
        # Composed into one image first, panels take three times as long.
        "image.composite_image": False,
        "svg.fonttype": "none",
        "svg.hashsalt": "attention",
    }
