"""Curves of a sweep: what was measured and what theory predicts, a plot for each quantity."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from service.errors import Invalid
from service.pictures.legend import Entry
from service.pictures.lines import LIMIT, THEORY, asymptotic, isolated, measured, theoretical
from service.pictures.palettes import PALETTES, Mark, Palette, Theme, marks
from service.pictures.plot_page import plot_page
from service.pictures.plots import Values, drawable, prepare, span_doublings, span_values
from service.pictures.quantities import OF_SWEEPS, Quantity
from service.pictures.sheet import Form, drawing, encoded
from service.pictures.sweep import Curve, Sweep, sweep_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIZE = (270, 450)
_COLUMNS = {1: 1, 2: 2, 4: 2}
_MOST_COLUMNS = 3
_NAMES = {"d_k": "d_k (dimensions)", "key_length": "key_length (keys)"}
_ERRORS = 2
"""Standard errors on either side of a mean."""


def draw_sweep(rows: Sequence[Mapping[str, Any]], *, theme: Theme, form: Form) -> bytes:
    """Curves along d_k, or along key_length where the sweep has only one d_k.

    Args:
        rows: of a sweep's answer; a figure that is None is a gap.
        theme: light or dark.
        form: png or svg.

    Raises:
        Invalid: more curves than can be told apart, or nothing that is drawn here.
    """
    sweep = sweep_of(rows)
    quantities = [quantity for quantity in OF_SWEEPS if sweep.has(quantity.name)]
    if not quantities:
        known = ", ".join(quantity.name for quantity in OF_SWEEPS)
        raise Invalid(f"nothing to draw: the rows have none of {known}", pointer="")
    palette = PALETTES[theme]
    with drawing(palette):
        page = plot_page(
            f"Softmax saturation along {sweep.along}" + (f", {sweep.fixed}" if sweep.fixed else ""),
            _entries(sweep, quantities, palette),
            _caption(sweep, quantities),
            plots=len(quantities),
            columns=_COLUMNS.get(len(quantities), _MOST_COLUMNS),
            size=_SIZE,
        )
        for plot, quantity in zip(page.plots, quantities, strict=True):
            _draw_quantity(plot, sweep, quantity, palette)
        return encoded(page.figure, form, page.title)


def _draw_quantity(plot: "Axes", sweep: Sweep, quantity: Quantity, palette: Palette) -> None:
    prepare(plot, quantity, _NAMES[sweep.along])
    span_doublings(plot, sweep.places)
    span_values(plot, quantity, np.concatenate([_shown(curve, quantity) for curve in sweep.curves]))
    for curve, mark in zip(sweep.curves, marks(palette), strict=False):
        _draw_curve(plot, curve, [row[sweep.along] for row in curve.rows], quantity, mark)


def _draw_curve(
    plot: "Axes", curve: Curve, places: list[int], quantity: Quantity, mark: Mark
) -> None:
    """Theory lies below what was measured; bars show the error where a band has no width."""
    low, high = _band(curve, quantity.name)
    mean, predicted, asymptote = (drawable(v, quantity) for v in curve.lines(quantity.name))
    plot.fill_between(places, low, high, color=mark.colour, alpha=0.2, linewidth=0)
    plot.vlines(places, low, high, colors=mark.colour, linewidth=0.8)
    plot.plot(places, asymptote, **asymptotic(mark.colour), **isolated(asymptote, LIMIT))
    plot.plot(places, predicted, **theoretical(mark.colour), **isolated(predicted, THEORY))
    plot.plot(places, mean, **measured(mark))


def _band(curve: Curve, name: str) -> tuple[Values, Values]:
    mean, error = curve.measured(name, "mean"), curve.measured(name, "standard_error")
    return mean - _ERRORS * error, mean + _ERRORS * error


def _shown(curve: Curve, quantity: Quantity) -> Values:
    """All values that the axis must have room for: a band only where the axis has no set end."""
    free = quantity.top is None and not quantity.logarithmic
    band = [_band(curve, quantity.name)[1]] if free else []
    return np.concatenate([*curve.lines(quantity.name), *band])


def _entries(sweep: Sweep, quantities: Sequence[Quantity], palette: Palette) -> list[Entry]:
    named = zip(sweep.curves, marks(palette), strict=False)
    entries = [Entry(curve.label, measured(mark)) for curve, mark in named]
    pairs = [(curve, quantity.name) for curve in sweep.curves for quantity in quantities]

    def lone(marker: str) -> dict[str, Any]:
        return {"marker": marker, "linestyle": "none"} if len(sweep.places) == 1 else {}

    if any(np.isfinite(curve.predicted(name)).any() for curve, name in pairs):
        entries.append(Entry("theory", {**theoretical(palette.ink), **lone(THEORY)}))
    if any(np.isfinite(curve.asymptote(name)).any() for curve, name in pairs):
        entries.append(Entry("n → ∞", {**asymptotic(palette.ink), **lone(LIMIT)}))
    return entries


def _caption(sweep: Sweep, quantities: Sequence[Quantity]) -> list[str]:
    pairs = [(curve, quantity) for curve in sweep.curves for quantity in quantities]
    said = [f"Each point is the mean over {sweep.seeds}."]
    if any(np.isfinite(curve.measured(q.name, "standard_error")).any() for curve, q in pairs):
        said.append(f"Bands and bars: mean ± {_ERRORS} standard errors.")
    if any(np.isfinite(curve.predicted(q.name)).any() for curve, q in pairs):
        said.append("Theory lies below the measured curve and is hidden where they agree.")
    if any(np.isfinite(curve.asymptote(q.name)).any() for curve, q in pairs):
        said.append("n → ∞: theory for infinitely many keys.")
    if any((curve.measured(q.name, "mean") <= 0).any() for curve, q in pairs if q.logarithmic):
        said.append("A mean of 0 has no place on a logarithmic axis and is left out.")
    return said
