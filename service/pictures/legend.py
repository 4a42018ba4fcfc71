"""Which mark is which series: one legend for a whole picture, below its title."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from service.pictures.lettering import printable, wide

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINE = 24
"""Pixels from line to line."""

_SIZE = 8.0
_LONGEST = 40
_SAMPLE = 56
_GAP = 10
_APART = 34


@dataclass(frozen=True, slots=True)
class Entry:
    """A label, and the line properties of what it labels."""

    label: str
    style: Mapping[str, Any]

    @property
    def text(self) -> str:
        """The label as it is written."""
        return printable(self.label, _LONGEST)


@dataclass(frozen=True, slots=True)
class Legend:
    """Entries in as many columns as a width in pixels has room for."""

    entries: Sequence[Entry]
    width: float

    @property
    def _step(self) -> float:
        return _SAMPLE + _GAP + max(wide(entry.text, _SIZE) for entry in self.entries) + _APART

    @property
    def columns(self) -> int:
        """At least one."""
        return max(1, int((self.width + _APART) // self._step))

    @property
    def height(self) -> int:
        """Pixels of all lines."""
        return -(-len(self.entries) // self.columns) * LINE

    def draw(self, axes: "Axes", left: float, top: float) -> None:
        """Line by line, on axes in pixels."""
        for index, entry in enumerate(self.entries):
            row, column = divmod(index, self.columns)
            x, y = left + column * self._step, top + (row + 0.5) * LINE
            sample = ([x, x + _SAMPLE / 2, x + _SAMPLE], [y, y, y])
            axes.plot(*sample, markevery=[1], **entry.style)
            axes.text(x + _SAMPLE + _GAP, y, entry.text, fontsize=_SIZE, va="center_baseline")
