"""A sweep as a table: lines of CSV, or columns as tensors."""

import csv
import math
from collections.abc import Iterable, Mapping
from io import StringIO
from typing import Any

import torch
from torch import Tensor

_KINDS = ("mean", "standard_error", "predicted")
_POINT = ("d_k", "scale", "scale_value", "key_length")


def sweep_csv(rows: Iterable[Mapping[str, Any]], names: Iterable[str]) -> str:
    """A header, then a line a row; undefined figures are empty.

    Args:
        rows: of the sweep, as the contract writes them.
        names: of the measured figures, in the order of the columns.
    """
    names = list(names)
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*_POINT, *(f"{name}_{kind}" for name in names for kind in _KINDS)])
    for row in rows:
        figures = [figure for name in names for figure in _figures(row, name)]
        writer.writerow([*(row[column] for column in _POINT), *figures])
    return out.getvalue()


def sweep_tensors(rows: Iterable[Mapping[str, Any]], names: Iterable[str]) -> dict[str, Tensor]:
    """Columns (points,): d_k, key_length, scale_value, and NAME.mean, .standard_error, .predicted.

    float64, NaN where undefined; the two extents int64.
    """
    rows = list(rows)
    extents = {name: torch.tensor([row[name] for row in rows]) for name in ("d_k", "key_length")}
    columns = {"scale_value": _column([row["scale_value"] for row in rows])}
    for name in names:
        figures = zip(*(_figures(row, name) for row in rows), strict=True)
        for kind, column in zip(_KINDS, figures, strict=True):
            columns[f"{name}.{kind}"] = _column(column)
    return {**extents, **columns}


def _column(figures: Iterable[float | None]) -> Tensor:
    found = [math.nan if figure is None else figure for figure in figures]
    return torch.tensor(found, dtype=torch.float64)


def _figures(row: Mapping[str, Any], name: str) -> tuple[float | None, ...]:
    measured = row["measured"].get(name, {})
    predicted = row["predicted"].get(name, {})
    return measured.get("mean"), measured.get("standard_error"), predicted.get("value")
