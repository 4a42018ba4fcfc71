"""What is written around a panel: its title, its frame, the ticks and labels of its axes."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from service.pictures.arrangement import HEADING, LABEL, Arrangement
from service.pictures.lettering import DPI, fitted, printable
from service.pictures.panel import Panel
from service.pictures.ticks import MARK, SIZE, Ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LONGEST_HEADING = 80

Line = list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class PanelMarks:
    """Writes on axes in pixels; lines are gathered and drawn at once."""

    axes: "Axes"
    arrangement: Arrangement
    lines: list[Line] = field(default_factory=list)

    def add(self, index: int, panel: Panel) -> None:
        """Everything around one panel."""
        grid, shared = self.arrangement.grid, self.arrangement.shared
        (top, left), (height, width) = grid.corner(index), grid.panel
        title = fitted(printable(panel.title, _LONGEST_HEADING), HEADING, width)
        self.axes.text(left + width / 2, top - 6, title, fontsize=HEADING, ha="center")
        self.lines.append(_frame(left, top, left + width, top + height))
        if grid.leftmost(index) or not shared:
            self._queries(self.arrangement.query_ticks(panel), top, left)
        if grid.lowest(index) or not shared:
            self._keys(self.arrangement.key_ticks(panel), top + height, left)

    def finish(self, colour: str) -> None:
        """Draw the lines, a pixel wide; matplotlib's snapping would move some onto the panels."""
        from matplotlib.collections import LineCollection

        lines = LineCollection(self.lines, colors=colour, linewidths=72 / DPI)
        lines.set_snap(False)
        self.axes.add_collection(lines)

    def _queries(self, ticks: Ticks, top: int, left: int) -> None:
        height = self.arrangement.grid.panel[0]
        for place, text in zip(ticks.places, ticks.texts, strict=True):
            y = _middle(top + place * height)
            self.lines.append([(left - MARK + 1, y), (left, y)])
            self.axes.text(
                left - MARK - 2, y, text, fontsize=SIZE, ha="right", va="center_baseline"
            )
        x, y = left - self.arrangement.beside, top + height / 2
        label = f"query ({ticks.unit})"
        self.axes.text(x, y, label, fontsize=LABEL, ha="left", va="center", rotation=90)

    def _keys(self, ticks: Ticks, bottom: int, left: int) -> None:
        width = self.arrangement.grid.panel[1]
        rotation = 90 if ticks.unit == "token" else 0
        for place, text in zip(ticks.places, ticks.texts, strict=True):
            x = _middle(left + place * width)
            self.lines.append([(x, bottom), (x, bottom + MARK - 1)])
            self.axes.text(
                x, bottom + MARK + 2, text, fontsize=SIZE, ha="center", va="top", rotation=rotation
            )
        y = bottom + self.arrangement.below
        label = f"key ({ticks.unit})"
        self.axes.text(left + width / 2, y, label, fontsize=LABEL, ha="center", va="bottom")


def _frame(left: float, top: float, right: float, bottom: float) -> Line:
    """Around the panel's pixels, none of which it covers."""
    left, top, right, bottom = left - 0.5, top - 0.5, right + 0.5, bottom + 0.5
    return [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]


def _middle(place: float) -> float:
    """The middle of the pixel."""
    return int(place) + 0.5
