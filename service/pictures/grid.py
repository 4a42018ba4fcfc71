"""Where panels of one size stand on a sheet, in pixels."""

import math
from dataclasses import dataclass

from service.pictures.sheet import LARGEST, Box

_SIDE_OF_ONE = 760
"""The longer side of a single panel; of more columns each is smaller by their square root."""

_SHEET_RATIO = 1.3
_EMPTINESS = 4
"""How much worse an empty place is than a sheet that is longer or wider by a panel."""
_FLATTEST = 0.25
_LEAST_SIDE = 60
_PIXELS_TO_SPARE = 6
_LEAST_WIDTH = 880
"""What a title and a caption need."""


@dataclass(frozen=True, slots=True)
class Borders:
    """Pixels that the sheet keeps free around its panels, and each panel beside the next."""

    left: int
    top: int
    right: int
    bottom: int
    across: int
    down: int


@dataclass(frozen=True, slots=True)
class Grid:
    """Panels row by row."""

    count: int
    columns: int
    panel: tuple[int, int]
    """Height and width."""
    borders: Borders

    @property
    def rows(self) -> int:
        """Rows, of which the last may not be full."""
        return -(-self.count // self.columns)

    @property
    def extent(self) -> tuple[int, int]:
        """Height and width of all panels with what is between them."""
        height, width = self.panel
        return (
            self.rows * (height + self.borders.down) - self.borders.down,
            self.columns * (width + self.borders.across) - self.borders.across,
        )

    @property
    def sheet(self) -> tuple[int, int]:
        """Height and width of the sheet."""
        height, width = self.extent
        borders = self.borders
        wide = borders.left + width + borders.right
        return borders.top + height + borders.bottom, max(wide, _LEAST_WIDTH)

    def corner(self, index: int) -> tuple[int, int]:
        """Top and left of a panel."""
        row, column = divmod(index, self.columns)
        height, width = self.panel
        return (
            self.borders.top + row * (height + self.borders.down),
            self.borders.left + column * (width + self.borders.across),
        )

    def box(self, index: int) -> Box:
        """A panel's place."""
        (top, left), (height, width) = self.corner(index), self.panel
        return left, top, width, height

    def leftmost(self, index: int) -> bool:
        """Whether no panel is left of this one."""
        return index % self.columns == 0

    def lowest(self, index: int) -> bool:
        """Whether no panel is below this one."""
        return index + self.columns >= self.count


def lay_out(
    count: int, positions: tuple[int, int], borders: Borders, columns: int | None = None
) -> Grid:
    """A grid for matrices of that many positions (query, key), no larger than a sheet may be.

    It has the columns asked for, unless its panels would then be too small to be of use.
    """
    ratio = min(max(positions[0] / positions[1], _FLATTEST), 1 / _FLATTEST)
    grids = [_in_columns(count, positions, ratio, borders, n) for n in range(1, count + 1)]
    usable = [grid for grid in grids if min(grid.panel) >= _LEAST_SIDE]
    asked = [grid for grid in usable if grid.columns == columns]
    if not usable:
        return max(grids, key=lambda grid: min(grid.panel))
    return min(asked or usable, key=lambda grid: _badness(grid, ratio))


def _in_columns(
    count: int, positions: tuple[int, int], ratio: float, borders: Borders, columns: int
) -> Grid:
    """Panels as large as the sheet lets them be; their height is `ratio` times their width."""
    rows = -(-count // columns)
    across = (LARGEST - borders.left - borders.right + borders.across) / columns - borders.across
    down = (LARGEST - borders.top - borders.bottom + borders.down) / rows - borders.down
    width = min(_SIDE_OF_ONE / math.sqrt(columns) / max(ratio, 1), across, down / ratio)
    panel = _whole_cells(width * ratio, positions[0]), _whole_cells(width, positions[1])
    return Grid(count, columns, panel, borders)


def _badness(grid: Grid, ratio: float) -> float:
    """How far the whole is from a page, and how many places are left empty."""
    places = grid.rows * grid.columns
    shape = abs(math.log(grid.columns / (grid.rows * ratio) / _SHEET_RATIO))
    return shape + _EMPTINESS * (places - grid.count) / grid.count


def _whole_cells(pixels: float, positions: int) -> int:
    """Fewer pixels, such that every position has as many, where that does not take too many."""
    whole = int(pixels)
    return whole - whole % positions if whole >= _PIXELS_TO_SPARE * positions else whole
