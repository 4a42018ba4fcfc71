"""Axes of plots: their titles, their limits and their ticks."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from service.pictures.quantities import Quantity

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Values = NDArray[np.float64]

_MOST_TICKS = 7
_MOST_HEADS = 48
_MARGIN = 0.05
_FARTHEST = 250
"""Decades from 1, either way, that a float64 can hold with a margin beyond them."""

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_PLAIN_EXPONENTS = range(-3, 5)


def prepare(axes: "Axes", quantity: Quantity, across: str) -> None:
    """Title, labels and grid."""
    axes.set_title(quantity.title, fontsize=8.5, pad=7)
    axes.set_xlabel(across, fontsize=8)
    axes.set_ylabel(quantity.axis, fontsize=8)
    axes.tick_params(labelsize=7, length=3, width=0.6, pad=3)
    axes.grid(visible=True, axis="y", linewidth=0.6)
    axes.set_axisbelow(True)


def span_values(axes: "Axes", quantity: Quantity, values: Values) -> None:
    """The vertical axis, for all values that are shown on it; NaN is none."""
    if quantity.logarithmic:
        _span_decades(axes, values[values > 0])
        return
    largest = min(float(values[np.isfinite(values)].max(initial=0)), 10.0**_FARTHEST)
    top = max(largest, quantity.top or 0) or 1.0
    axes.set_ylim(-_MARGIN * top, (1 + _MARGIN) * top)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.4g}".replace("-", "−"))


def span_doublings(axes: "Axes", places: Sequence[int]) -> None:
    """The horizontal axis, on which each doubling is as long as the next."""
    first, last = math.log2(min(places)), math.log2(max(places))
    margin = max(_MARGIN * (last - first), 0.25)
    axes.set_xscale("log", base=2)
    axes.set_xlim(2 ** (first - margin), 2 ** (last + margin))
    powers = range(math.ceil(first), math.floor(last) + 1)
    shown = [2**power for power in powers[:: -(-len(powers) // _MOST_TICKS) or 1]]
    _tick(axes.xaxis, shown if len(shown) > 1 else sorted({min(places), max(places)}), str)


def span_heads(axes: "Axes", heads: Sequence[int]) -> None:
    """The horizontal axis of heads at 0, 1, 2, …, each place set off from the next."""
    axes.set_xlim(-0.5, len(heads) - 0.5)
    for place in range(1, len(heads), 2):
        axes.axvspan(
            place - 0.5,
            place + 0.5,
            facecolor=axes.spines["left"].get_edgecolor(),
            alpha=0.05,
            linewidth=0,
        )
    step = -(-len(heads) // _MOST_HEADS)
    places = range(0, len(heads), step)
    _tick(axes.xaxis, places, lambda place: str(heads[place]))


def numbers(values: Sequence[float | None]) -> Values:
    """The values, NaN where there is none that is finite."""
    found = np.array([np.nan if v is None else v for v in values], dtype=np.float64)
    return np.where(np.isfinite(found), found, np.nan)


def drawable(values: Values, quantity: Quantity) -> Values:
    """The values, NaN where the axis has no place for one."""
    return np.where(values > 0, values, np.nan) if quantity.logarithmic else values


def _span_decades(axes: "Axes", values: Values) -> None:
    logarithms = np.log10(values).clip(-_FARTHEST, _FARTHEST) if values.size else np.zeros(1)
    first, last = math.floor(logarithms.min()), math.ceil(logarithms.max())
    if first == last:
        first, last = first - 1, last + 1
    margin = _MARGIN * (last - first)
    axes.set_yscale("log")
    axes.set_ylim(10 ** (first - margin), 10 ** (last + margin))
    step = -(-(last - first) // (_MOST_TICKS - 1))
    exponents = range(first, last + 1, step)
    _tick(axes.yaxis, [10.0**e for e in exponents], lambda v: _power(round(math.log10(v))))


def _tick(axis: Any, places: Sequence[float], written: Any) -> None:
    """Ticks at these places only: the formatters of logarithmic axes write mathtext."""
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    axis.set_major_locator(FixedLocator(places))
    axis.set_major_formatter(FixedFormatter([written(place) for place in places]))
    axis.set_minor_locator(NullLocator())


def _power(exponent: int) -> str:
    if exponent in _PLAIN_EXPONENTS:
        return f"{10.0**exponent:g}"
    return "10" + str(exponent).translate(_SUPERSCRIPTS)
