"""The summary of softmax rows by the compiled library: the same figures in one visit of each row.

Measured over 8,192 rows: 0.1 ms, against 0.56 ms in numpy, which stays the oracle and serves all
other rows.
"""

import math
from collections.abc import Sequence
from ctypes import Array, addressof, c_int64
from functools import lru_cache

import numpy as np

from service.attention.native.library import Native
from service.attention.native.structures import FIGURES, Summary
from service.diagnostics.aggregate import Sums
from service.diagnostics.base import Diagnostic
from service.diagnostics.rows import Columns, Figures
from service.diagnostics.verdict import DIFFUSE_ENTROPY, MARKS, SATURATED_WEIGHT, SHARP_ENTROPY

_PLACES = {name: place for place, name in enumerate(FIGURES)}


@lru_cache(maxsize=16)
def _least(members: tuple[Diagnostic, ...]) -> "tuple[Array[c_int64], list[int] | None] | None":
    """Keys that each figure takes, and where the members are among them, unless all in order."""
    if not all(member.name in _PLACES for member in members):
        return None
    needed = {member.name: member.least_keys for member in members}
    least = (c_int64 * len(FIGURES))(*(needed.get(name, 1) for name in FIGURES))
    places = [_PLACES[member.name] for member in members]
    own = list(range(len(FIGURES)))
    return least, None if places == own else places


def summarise(
    native: Native,
    members: Sequence[Diagnostic],
    columns: Columns,
    *,
    scale: float | None,
    keep: bool,
) -> tuple[Sums, Figures | None] | None:
    """Sums of the members and of the regimes' marks after them, and the figures where kept.

    None where the library does not compute one of them, or the columns lie apart.
    """
    base, lead = _base(columns), columns.visible.shape
    known = _least(tuple(members))
    if base is None or known is None:
        return None
    least, places = known
    heads = math.prod(lead[:-1])
    floats = np.empty((3, len(FIGURES) + MARKS, heads))
    rows = np.empty((len(FIGURES) + MARKS, heads), dtype=np.int64)
    figures = np.empty((len(FIGURES), *lead)) if keep else None
    at, step = floats.ctypes.data, floats.strides[0]
    native.summarise(
        Summary(
            *(heads, lead[-1], math.nan if scale is None else scale),
            *(SATURATED_WEIGHT, SHARP_ENTROPY, DIFFUSE_ENTROPY),
            *(addressof(least), base, at, at + step, at + 2 * step),
            *(rows.ctypes.data, None if figures is None else figures.ctypes.data),
        )
    )
    if places is not None:
        marks = range(len(FIGURES), len(FIGURES) + MARKS)
        floats, rows = floats[:, [*places, *marks]], rows[[*places, *marks]]
        figures = None if figures is None else figures[places]
    return Sums(floats[0], floats[1], floats[2], rows), figures


def _base(columns: Columns) -> int | None:
    """Where the columns begin, if they lie one after the other."""
    first, last = columns.visible, columns.score_max_abs
    begin = int(first.ctypes.data)
    apart = int(last.ctypes.data) - begin == (len(columns) - 1) * first.nbytes
    return begin if apart and first.flags.c_contiguous else None
