"""Figures of variants side by side, head by head, a plot for each figure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from service.errors import Invalid
from service.pictures.legend import Entry
from service.pictures.lines import separate, threshold
from service.pictures.palettes import MOST_SERIES, PALETTES, Palette, Theme, marks
from service.pictures.plot_page import plot_page
from service.pictures.plots import Values, numbers, prepare, span_heads, span_values
from service.pictures.quantities import OF_COMPARISONS, Quantity
from service.pictures.sheet import Form, drawing, encoded

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_HEIGHT = 190
_WIDTHS = (760, 2200)
_MARKER = 16
"""Pixels across that a marker takes beside the next, where there is room."""
_SPREAD = 0.7
"""The share of a head's place over which the variants are spread."""


@dataclass(frozen=True, slots=True)
class VariantFigures:
    """Figures of one variant by name, one for each head; None is a gap."""

    label: str
    figures: Mapping[str, Sequence[float | None]]


def draw_comparison(
    variants: Sequence[VariantFigures],
    *,
    heads: Sequence[int],
    thresholds: Mapping[str, float],
    title: str,
    theme: Theme,
    form: Form,
    threshold_name: str = "threshold",
) -> bytes:
    """A marker for each variant and head.

    Args:
        variants: in the order of the legend.
        heads: which heads these are, in the order of the figures.
        thresholds: where a figure begins to be judged otherwise, by the figure's name.
        title: of the picture.
        theme: light or dark.
        form: png or svg.
        threshold_name: what the legend calls them.

    Raises:
        Invalid: no variant, more than can be told apart, or nothing that is drawn here.
    """
    shown = _quantities(variants)
    named = {quantity.name for quantity in shown}
    palette = PALETTES[theme]
    with drawing(palette):
        page = plot_page(
            title,
            _entries(variants, palette, threshold_name if thresholds.keys() & named else None),
            _caption(variants, shown),
            plots=len(shown),
            columns=1,
            size=(_HEIGHT, int(np.clip(len(heads) * len(variants) * _MARKER, *_WIDTHS))),
        )
        for plot, quantity in zip(page.plots, shown, strict=True):
            prepare(plot, quantity, "head (index)")
            span_heads(plot, heads)
            _draw_figures(plot, variants, quantity, palette)
            if quantity.name in thresholds:
                _draw_threshold(plot, thresholds[quantity.name], palette)
        return encoded(page.figure, form, page.title)


def _quantities(variants: Sequence[VariantFigures]) -> list[Quantity]:
    """What there is to draw."""
    if not 1 <= len(variants) <= MOST_SERIES:
        raise Invalid(
            f"a picture shows 1 to {MOST_SERIES} variants that can be told apart, this one would "
            f"have {len(variants)}; ask for fewer variants",
            pointer="",
        )
    shown = [q for q in OF_COMPARISONS if any(q.name in v.figures for v in variants)]
    if not shown:
        known = ", ".join(quantity.name for quantity in OF_COMPARISONS)
        raise Invalid(f"nothing to draw: the variants have none of {known}", pointer="")
    return shown


def _entries(variants: Sequence[VariantFigures], palette: Palette, line: str | None) -> list[Entry]:
    named = zip(variants, marks(palette), strict=False)
    entries = [Entry(variant.label, separate(mark)) for variant, mark in named]
    return entries if line is None else [*entries, Entry(line, threshold(palette.ink))]


def _caption(variants: Sequence[VariantFigures], shown: Sequence[Quantity]) -> list[str]:
    values = [numbers(v.figures.get(quantity.name, ())) for v in variants for quantity in shown]
    if all(np.isfinite(found).all() for found in values):
        return []
    return ["Where a marker is missing, the figure is undefined for that head."]


def _draw_figures(
    plot: "Axes", variants: Sequence[VariantFigures], quantity: Quantity, palette: Palette
) -> None:
    found: list[Values] = []
    offsets = (np.arange(len(variants)) + 0.5) / len(variants) - 0.5
    for variant, mark, offset in zip(variants, marks(palette), offsets, strict=False):
        values = numbers(variant.figures.get(quantity.name, ()))
        places = np.arange(values.size) + _SPREAD * offset
        plot.plot(places, values, **separate(mark))
        found.append(values)
    span_values(plot, quantity, np.concatenate(found))


def _draw_threshold(plot: "Axes", value: float, palette: Palette) -> None:
    """A line across, with its value at its right end."""
    plot.axhline(value, **threshold(palette.ink), zorder=1)
    at = plot.get_yaxis_transform()
    plot.text(1.004, value, f"{value:g}", fontsize=7, va="center", transform=at)
