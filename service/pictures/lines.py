"""How series are drawn: matplotlib's line properties."""

from typing import Any

import numpy as np

from service.pictures.palettes import Mark
from service.pictures.plots import Values

THEORY, LIMIT = "_", "x"
"""Markers of predictions and asymptotes that stand alone."""
_LONE = {THEORY: 12, LIMIT: 6}


def measured(mark: Mark) -> dict[str, Any]:
    """Markers, joined where neighbours were measured."""
    return {
        "color": mark.colour,
        "marker": mark.marker,
        "markersize": 5,
        "markerfacecolor": "none" if mark.hollow else mark.colour,
        "linestyle": mark.dashes,
        "linewidth": 1.3,
    }


def separate(mark: Mark) -> dict[str, Any]:
    """Markers alone, for places that have no order."""
    return {**measured(mark), "linestyle": "none"}


def theoretical(colour: str) -> dict[str, Any]:
    """Thin and unbroken."""
    return {"color": colour, "linewidth": 0.7, "linestyle": "solid"}


def asymptotic(colour: str) -> dict[str, Any]:
    """Dotted."""
    return {"color": colour, "linewidth": 1.2, "linestyle": (0, (1, 2))}


def threshold(colour: str) -> dict[str, Any]:
    """Dashed."""
    return {"color": colour, "linewidth": 0.9, "linestyle": (0, (6, 3))}


def isolated(values: Values, marker: str) -> dict[str, Any]:
    """A marker where a line has a value without a neighbour, and would not be seen."""
    finite = np.pad(np.isfinite(values), 1)
    lone = finite[1:-1] & ~finite[:-2] & ~finite[2:]
    return {"marker": marker, "markersize": _LONE[marker], "markevery": lone.tolist()}
