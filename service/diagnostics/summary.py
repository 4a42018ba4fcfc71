"""All rows at once: the diagnostics of each, their aggregates, and the rows in each regime."""

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from service.attention.native.library import Native
from service.attention.normalizing import FLUSHED, Exponential, Weighing
from service.attention.statistics import RowStatistics
from service.diagnostics.aggregate import COUNTS, REGIMES, Numbers, Summary, Sums
from service.diagnostics.base import Diagnostic, compute, evaluate_into, undefine
from service.diagnostics.compiled import summarise as summarise_compiled
from service.diagnostics.rows import Columns, Figures, Rows, rows_of
from service.diagnostics.verdict import MARKS, mark_regimes

# Rows at a time: their figures stay in the cache or near it, and are never held as a whole.
# Measured over 8,192 rows: 1,024 at a time take 1.15 ms, 2,048 0.82, 4,096 0.71, 8,192 0.60.
PART_ROWS = 8192


@dataclass(frozen=True)
class Material:
    """What the figures of all rows are computed from: see `rows_of`.

    `statistics` become `columns` when these are asked for: the compiled library takes them as they
    are.
    """

    statistics: RowStatistics | Columns
    scale: float | None
    weighing: Weighing
    weight_sums: Figures | None
    figures: Mapping[str, Figures]
    constants: Mapping[str, float]

    @classmethod
    def of(
        cls,
        statistics: RowStatistics,
        *,
        scale: float | None,
        weighing: Weighing,
        weight_sums: Tensor | None,
        figures: Mapping[str, Tensor],
        constants: Mapping[str, float],
    ) -> "Material":
        """From tensors (batch, heads, N), wherever they lie."""
        there = statistics.visible.device.type != "cpu"
        return cls(
            statistics.to("cpu") if there else statistics,
            scale,
            weighing,
            None if weight_sums is None else weight_sums.cpu().numpy(),
            {name: figure.cpu().numpy() for name, figure in figures.items()},
            constants,
        )

    @cached_property
    def columns(self) -> Columns:
        """The statistics as arrays."""
        given = self.statistics
        return given if isinstance(given, Columns) else Columns.of(given)

    @property
    def lead(self) -> tuple[int, ...]:
        """Batch, heads and N."""
        return tuple(self.statistics.visible.shape)

    @property
    def plain(self) -> bool:
        """Whether they are rows of a softmax, and nothing came with their scores."""
        exponential = isinstance(self.weighing, Exponential) and self.weighing.null_weight == 0
        return exponential and self.weight_sums is None and not self.figures

    def rows(self) -> Rows:
        """What follows from all of them."""
        return rows_of(
            self.columns,
            scale=self.scale,
            weighing=self.weighing,
            weight_sums=self.weight_sums,
            figures=self.figures,
            constants=self.constants,
        )

    def part(self, *index: slice) -> "Material":
        """Some of the rows."""
        sums = self.weight_sums
        return replace(
            self,
            statistics=Columns(*(column[index] for column in self.columns)),
            weight_sums=None if sums is None else sums[(slice(None), *index)],
            figures={name: figure[index] for name, figure in self.figures.items()},
        )

    def by_head(self) -> "Material":
        """With one axis for batch and heads."""
        shape = (-1, self.lead[-1])
        sums = self.weight_sums
        return replace(
            self,
            statistics=Columns(*(column.reshape(shape) for column in self.columns)),
            weight_sums=None if sums is None else sums.reshape(len(sums), *shape),
            figures={name: figure.reshape(shape) for name, figure in self.figures.items()},
        )


class RowFigures(Mapping[str, Tensor]):
    """The diagnostics of every row (batch, heads, N), computed when the first is asked for.

    `further` were computed elsewhere; `found` (member, batch, heads, N) holds what is computed
    already; `items` are the batch items they are of.
    """

    def __init__(
        self,
        members: Sequence[Diagnostic],
        material: Material,
        further: Mapping[str, Tensor],
        found: Figures | None = None,
        items: slice = slice(None),
    ) -> None:
        self._members, self._material, self._further = members, material, further
        self._found, self._items = found, items

    @cached_property
    def _named(self) -> dict[str, Tensor]:
        if self._found is None:
            material = self._material.part(self._items)
            found = np.empty((len(self._members), *material.lead))
            for _, rows, figures in _parts(len(self._members), material, found):
                evaluate_into(self._members, rows, figures)
        else:
            found = self._found[:, self._items]
        names = (member.name for member in self._members)
        own = zip(names, torch.from_numpy(found).unbind(), strict=True)
        further = {name: figure[self._items] for name, figure in self._further.items()}
        return {**dict(own), **further}

    def __getitem__(self, name: str) -> Tensor:
        return self._named[name]

    def __iter__(self) -> Iterator[str]:
        return chain((member.name for member in self._members), self._further)

    def __len__(self) -> int:
        return len(self._members) + len(self._further)

    def __contains__(self, name: object) -> bool:
        return any(name == own for own in self)

    def part(self, items: slice) -> "RowFigures":
        """The same of some batch items, of those of all."""
        return RowFigures(self._members, self._material, self._further, self._found, items)


def summarise(
    members: Sequence[Diagnostic],
    material: Material,
    *,
    keep: bool,
    native: Native | None = None,
) -> Summary:
    """Compute the members over all rows, aggregate them, and count the rows in each regime.

    `native` does it where the rows are a softmax's.
    """
    statistics = material.statistics
    if native is not None and isinstance(statistics, RowStatistics) and material.plain:
        compiled = summarise_compiled(native, members, statistics, scale=material.scale, keep=keep)
        if compiled is not None:
            return compiled
    *outer, _ = material.lead
    places = {member.name: place for place, member in enumerate(members)}
    own, regime = len(members), None
    if "max_weight" in places and "normalized_entropy" in places:
        regime = places["max_weight"], places["normalized_entropy"]
    count = own if regime is None else own + MARKS
    kept = np.empty((count, *material.lead)) if keep else None
    found: Sums | None = None
    for heads, rows, figures in _parts(count, material, kept):
        # No aggregate and no regime has a figure that is not finite.
        (evaluate_into if keep else _write)(members, rows, figures[:own])
        if regime is not None:
            # Marks of 0 and 1 are counted by the sums of all the others.
            mark_regimes(figures[regime[0]], figures[regime[1]], figures[own:])
        part = Sums.of(figures)
        if heads is None:
            found = part
            break
        found = Sums.empty(count, math.prod(outer)) if found is None else found
        found.add(part, heads)
    sums = found or Sums.empty(count, *outer)
    sums, regimes = sums.reshape((-1, *outer)), None
    if regime is not None:
        regimes = np.empty((REGIMES, *outer), dtype=np.int64)
        regimes[:MARKS], regimes[MARKS] = sums.total[own:], sums.rows[regime[1]]
    shown = None if kept is None else kept[:own]
    return Summary(sums.first(own), regimes, count_rows(material), shown)


def count_rows(material: Material) -> Numbers:
    """Rows without a key, flushed weights and overflowed logits (3, batch, heads)."""
    columns, sums = material.columns, material.weight_sums
    flushed = columns.underflowed if sums is None else sums[FLUSHED]
    found = np.empty((COUNTS, *material.lead[:-1]), dtype=np.int64)
    of_rows = columns.visible == 0, flushed, columns.overflowed
    for count, column in zip(found, of_rows, strict=True):
        count[...] = np.add.reduce(column, -1, dtype=np.float64)
    return found


def _write(members: Sequence[Diagnostic], rows: Rows, figures: Figures) -> None:
    with np.errstate(all="ignore"):
        compute(members, rows, figures)
        if not rows.complete:
            undefine(members, rows, figures)


def _parts(
    count: int, material: Material, keep: Figures | None
) -> Iterator[tuple[slice | None, Rows, Figures]]:
    """Heads, rows (heads, n) and where their figures (count, heads, n) go, part by part.

    A part is of whole heads or within one and cut by their length alone, so that the sums of a head
    add up in the same order in any company. What is one part is left as it is, and its heads are
    None.
    """
    if math.prod(material.lead) <= PART_ROWS:
        figures = _scratch(count, *material.lead) if keep is None else keep
        yield None, material.rows(), figures
        return
    flat = material.by_head()
    if keep is not None:
        keep = keep.reshape(count, *flat.lead)
    for heads, queries in _cut(*flat.lead):
        part = flat.part(heads, queries)
        figures = _scratch(count, *part.lead) if keep is None else keep[:, heads, queries]
        yield heads, part.rows(), figures


class _Scratch(threading.local):
    """A buffer that each thread uses again: fresh memory would be mapped page by page."""

    numbers = np.empty(0)


_OWN = _Scratch()


def _scratch(*shape: int) -> Figures:
    size = math.prod(shape)
    if _OWN.numbers.size < size:
        _OWN.numbers = np.empty(size)
    return _OWN.numbers[:size].reshape(shape)


def _cut(heads: int, length: int) -> Iterator[tuple[slice, slice]]:
    together = max(1, PART_ROWS // length)
    for first in range(0, heads, together):
        last = min(first + together, heads)
        for query in range(0, length, PART_ROWS):
            yield slice(first, last), slice(query, min(query + PART_ROWS, length))
