"""Panels of heat maps on a sheet: the room that their texts take, and what their axes show."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from service.pictures.grid import Borders, Grid, lay_out
from service.pictures.lettering import pixels
from service.pictures.panel import Panel
from service.pictures.sheet import EDGE
from service.pictures.ticks import (
    MARK,
    Ticks,
    fit,
    line,
    position_ticks,
    token_ticks,
    widest_position,
    widest_token,
)

LABEL = 8.0
HEADING = 8.0
"""Points of axis labels and of the titles of panels."""

_BETWEEN = 14
_UNLIMITED = float("inf")

Tokens = tuple[bool, bool]
"""Whether the query axis and the key axis show tokens."""


@dataclass(frozen=True, slots=True)
class Arrangement:
    """Where the panels stand; `shared` ones have ticks only at the left and at the bottom."""

    grid: Grid
    tokens: Tokens
    shared: bool
    beside: int
    below: int
    """Pixels of ticks and label left of a panel, and below it."""

    def query_ticks(self, panel: Panel) -> Ticks:
        """From the top down."""
        if self.tokens[0] and panel.query_labels is not None:
            return token_ticks(panel.query_labels)
        return position_ticks(panel.positions[0], line() / self.grid.panel[0])

    def key_ticks(self, panel: Panel) -> Ticks:
        """From the left."""
        if self.tokens[1] and panel.key_labels is not None:
            return token_ticks(panel.key_labels)
        keys = panel.positions[1]
        return position_ticks(keys, max(line(), widest_position(keys)) / self.grid.panel[1])


def arranged(
    panels: Sequence[Panel], columns: int | None, around: tuple[int, int, int]
) -> Arrangement:
    """The panels in a grid, with room `around` it in pixels: above, to the right, below.

    Tokens take room from the panels that they may then not fit; then there are positions instead.
    """
    tokens = _fitting(panels, (_UNLIMITED, _UNLIMITED))
    while True:
        found = _with(panels, columns, tokens, around)
        height, width = found.grid.panel
        fitting = _fitting(panels, (height if tokens[0] else 0, width if tokens[1] else 0))
        if fitting == tokens:
            return found
        tokens = fitting


def _with(
    panels: Sequence[Panel], columns: int | None, tokens: Tokens, around: tuple[int, int, int]
) -> Arrangement:
    above, right, under = around
    shared = all(panel.like(panels[0]) for panel in panels)
    label = MARK + 1.7 * pixels(LABEL)
    kinds = panels[:1] if shared else panels
    beside = ceil(max(_widest(panel, 0, tokens[0]) for panel in kinds) + label)
    deepest = max(_widest(panel, 1, True) for panel in kinds) if tokens[1] else line()
    below = ceil(deepest + label)
    heading = ceil(1.6 * pixels(HEADING))
    borders = Borders(
        left=EDGE + beside,
        top=above + heading,
        right=right,
        bottom=below + under,
        across=_BETWEEN + (0 if shared else beside),
        down=_BETWEEN + heading + (0 if shared else below),
    )
    largest = [max(panel.positions[axis] for panel in panels) for axis in (0, 1)]
    grid = lay_out(len(panels), (largest[0], largest[1]), borders, columns)
    return Arrangement(grid, tokens, shared, beside, below)


def _widest(panel: Panel, axis: int, tokens: bool) -> float:
    labels = panel.labels[axis]
    if tokens and labels is not None:
        return widest_token(labels)
    return widest_position(panel.positions[axis])


def _fitting(panels: Sequence[Panel], size: tuple[float, float]) -> Tokens:
    query, key = (
        all(fit(panel.labels[axis], panel.positions[axis], size[axis]) for panel in panels)
        for axis in (0, 1)
    )
    return query, key
