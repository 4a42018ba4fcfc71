"""A sweep as text: rows of CSV."""

import csv
from collections.abc import Iterable, Mapping
from io import StringIO
from typing import Any

_POINT = ("d_k", "scale", "scale_value", "key_length")


def sweep_csv(rows: Iterable[Mapping[str, Any]], names: Iterable[str]) -> str:
    """A header, then a line a row; undefined figures are empty.

    Args:
        rows: of the sweep, as the contract writes them.
        names: of the measured figures, in the order of the columns.
    """
    names = list(names)
    kinds = ("mean", "standard_error", "predicted")
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*_POINT, *(f"{name}_{kind}" for name in names for kind in kinds)])
    for row in rows:
        figures = [figure for name in names for figure in _figures(row, name)]
        writer.writerow([*(row[column] for column in _POINT), *figures])
    return out.getvalue()


def _figures(row: Mapping[str, Any], name: str) -> tuple[float | None, ...]:
    measured = row["measured"].get(name, {})
    predicted = row["predicted"].get(name, {})
    return measured.get("mean"), measured.get("standard_error"), predicted.get("value")
