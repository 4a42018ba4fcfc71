"""Which diagnostics an answer names, and which its inputs do not define, and why."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from service.diagnostics import DIAGNOSTICS
from service.diagnostics.aggregate import Aggregates, Sums
from service.diagnostics.base import Diagnostic


@dataclass(frozen=True, slots=True)
class Offer:
    """The diagnostics of answers with one kind of inputs and one normaliser.

    `members` are those to compute, `units` those to aggregate, in the order of the answer, and
    `reasons` why some of these are undefined.
    """

    members: tuple[Diagnostic, ...]
    units: Mapping[str, str]
    reasons: Mapping[str, str]

    source: list[int]
    """The member of each unit that is defined, …"""
    place: list[int]
    """… and that unit."""

    def aggregates(self, sums: Sums) -> Aggregates:
        """Of the figures of the members."""
        figures, rows = sums.figures().take(self.source, 1), sums.rows.take(self.source, 0)
        if not self.reasons:
            return Aggregates(self.units, figures, rows)
        shape = (len(self.units), *rows.shape[1:])
        every, counts = np.full((3, *shape), np.nan), np.zeros(shape, dtype=np.int64)
        every[:, self.place], counts[self.place] = figures, rows
        return Aggregates(self.units, every, counts, self.reasons)


@lru_cache(maxsize=64)
def offer(kind: str, normalizer: str, *, hidden: bool) -> Offer:
    """What is offered for inputs of a kind; `hidden` where the scores come from hidden units."""
    offered = [d for d in DIAGNOSTICS.values() if _offered(d, normalizer, hidden=hidden)]
    found = {d.name: _missing(d, kind, normalizer) for d in offered}
    members = tuple(d for d in offered if found[d.name] is None)
    named = [d for d in offered if d.aggregated]
    return Offer(
        members=members,
        units={d.name: d.unit for d in named},
        reasons={name: reason for name, reason in found.items() if reason is not None},
        source=[place for place, d in enumerate(members) if d.aggregated],
        place=[place for place, d in enumerate(named) if found[d.name] is None],
    )


def _offered(diagnostic: Diagnostic, normalizer: str, *, hidden: bool) -> bool:
    """Whether the answer names it at all."""
    if diagnostic.needs == "hidden":
        return hidden
    return not (diagnostic.trivial_for_softmax and normalizer == "softmax")


def _missing(diagnostic: Diagnostic, kind: str, normalizer: str) -> str | None:
    """Why these inputs, or this normaliser, do not give it."""
    if kind in ("logits", "weights") and diagnostic.needs == "scores":
        return f"inputs of kind {kind} come after the scores"
    if kind == "weights" and diagnostic.needs == "logits":
        return "weights determine logits only up to a constant, and not where they are 0"
    if diagnostic.normalizers is not None and normalizer not in diagnostic.normalizers:
        return f"defined for {diagnostic.listed_normalizers}, not for {normalizer}"
    return None
