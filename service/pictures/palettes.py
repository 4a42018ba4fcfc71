"""The colours of the two themes; every mark has a shape of its own beside its colour."""

from dataclasses import dataclass
from typing import Literal

Theme = Literal["light", "dark"]
Dashes = str | tuple[int, tuple[float, ...]]

WEIGHT_COLOURS = "cividis"
"""Luminance rises with the weight, for every kind of colour vision and in print."""

MARKERS = ("o", "s", "^", "D", "v", "X", "P", "*")
DASHES: tuple[Dashes, ...] = (
    "solid",
    (0, (5, 1.5)),
    (0, (5, 1.5, 1, 1.5)),
    (0, (2, 1)),
    (0, (5, 1.5, 1, 1.5, 1, 1.5)),
    (0, (8, 1.5, 3, 1.5)),
    (0, (3, 3)),
    (0, (10, 3, 1, 3)),
)


@dataclass(frozen=True, slots=True)
class Palette:
    """Colours as #rrggbb; `series` is Okabe and Ito's, less what cannot be seen on this page."""

    page: str
    ink: str
    faint: str
    hatched: str
    hatch: str
    series: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Mark:
    """How one series is drawn: no two share a colour, a marker or a dash pattern.

    Every other marker is hollow, so that one on top of another does not hide it.
    """

    colour: str
    marker: str
    dashes: Dashes
    hollow: bool


PALETTES: dict[Theme, Palette] = {
    "light": Palette(
        page="#ffffff",
        ink="#1a1a1a",
        faint="#dedede",
        hatched="#ffffff",
        hatch="#b4b4b4",
        series=(
            "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#e69f00", "#56b4e9", "#7f7f7f",
        ),
    ),
    "dark": Palette(
        page="#16181c",
        ink="#ececec",
        faint="#3a3d42",
        hatched="#3d4045",
        hatch="#9a9da3",
        series=(
            "#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#ffffff", "#f0e442", "#d55e00", "#999999",
        ),
    ),
}  # fmt: skip

MOST_SERIES = len(MARKERS)


def marks(palette: Palette) -> list[Mark]:
    """As many as can be told apart, in order."""
    shapes = zip(palette.series, MARKERS, DASHES, strict=True)
    return [Mark(*shape, hollow=index % 2 == 1) for index, shape in enumerate(shapes)]
