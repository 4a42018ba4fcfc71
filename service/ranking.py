"""All heads of all groups of a file, worst first."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from service.diagnostics.aggregate import Aggregated, pooled
from service.diagnostics.verdict import Level
from service.report import Analysis

_ORDER: dict[Level | None, int] = {"saturated": 0, "sharp": 1, "diffuse": 2, "healthy": 3, None: 4}


@dataclass(frozen=True, slots=True)
class RankedHead:
    """One head of one group, its rows pooled over the batch."""

    group: str
    head: int
    level: Level | None
    entropy: float | None
    max_weight: float | None
    jacobian_trace: float | None


def rank(analyses: Mapping[str, Analysis]) -> list[RankedHead]:
    """Order by level, then by how little gradient passes the softmax (the Jacobian's trace)."""
    ranked = [head for name, analysis in analyses.items() for head in _heads(name, analysis)]
    return sorted(ranked, key=_badness)


def _badness(head: RankedHead) -> tuple[int, float]:
    """Off softmax there is no trace; there the entropy of the row over its sum orders alike."""
    passed = head.entropy if head.jacobian_trace is None else head.jacobian_trace
    return _ORDER[head.level], float("inf") if passed is None else passed


def _heads(group: str, analysis: Analysis) -> list[RankedHead]:
    if analysis.verdict is None:
        return []
    heads = analysis.plan.shape.heads
    undecided: list[Level | None] = [None] * heads
    levels = undecided if analysis.counts is None else analysis.counts.pooled(0).levels()
    columns = [
        _pooled(analysis.diagnostics[name]) if name in analysis.diagnostics else [None] * heads
        for name in ("entropy", "max_weight", "jacobian_trace")
    ]
    figures = zip(levels, *columns, strict=True)
    return [RankedHead(group, head, *entry) for head, entry in enumerate(figures)]


def _pooled(figures: Aggregated) -> list[float | None]:
    """Mean over batch and rows where defined, per head."""
    means = pooled(figures.mean, figures.rows, (0,)).tolist()
    return [None if math.isnan(mean) else mean for mean in means]
