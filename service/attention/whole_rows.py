"""The weights of a unit's whole rows, for what needs the rows' final maximum and sum."""

from dataclasses import dataclass

import torch
from torch import Tensor

from service.attention.blocks import Unit, extent
from service.attention.logits import Logits, Workspace
from service.attention.normalizing import Direct, Weighing
from service.attention.rows import underflow_gap
from service.attention.statistics import RowStatistics


@dataclass(slots=True)
class WholeRows:
    """A unit's logits (heads, queries, M), those less their maximum, weights, and what is seen.

    Gaps and weights are 0 where hidden; the logits there are whatever was computed. `null` is what
    a constant in the divisor takes of each row (heads, queries, 1).
    """

    logits: Tensor
    gaps: Tensor
    weights: Tensor
    seen: Tensor
    null: Tensor | None = None


def score_rows(
    logits: Logits, unit: Unit, key_length: int, workspace: Workspace, *, buffer: int = 0
) -> tuple[Tensor, Tensor] | None:
    """A unit's logits, computed into a buffer, and what it sees; None where that is no key."""
    keys = slice(0, key_length)
    visible = logits.visibility.visible(unit, keys)
    if visible is False:
        return None
    block = workspace.view(buffer, unit, keys)
    logits.scorer.unit(unit)(keys, block)
    logits.shape_scores(block, unit, keys)
    seen = torch.ones_like(block, dtype=torch.bool)
    if isinstance(visible, Tensor):
        seen = visible.expand(*visible.shape[:-1], extent(keys)).expand_as(block)
    return block, seen


def read_rows(
    logits: Logits,
    weighing: Weighing,
    statistics: RowStatistics,
    unit: Unit,
    key_length: int,
    workspace: Workspace,
) -> WholeRows | None:
    """Compute a unit's logits again and weigh them; None where it sees no key at all."""
    scored = score_rows(logits, unit, key_length, workspace)
    if scored is None:
        return None
    block, seen = scored
    index = (unit.batch, unit.heads, unit.queries)
    maximum = statistics.maximum[index].unsqueeze(-1)
    gaps = torch.where(seen, block - maximum.to(block.dtype), 0.0)
    if isinstance(weighing, Direct):
        weights = weighing.weigh(block, seen).to(block.dtype)
        return WholeRows(block, gaps, weights, seen)
    total = (1 + statistics.tail[index]).unsqueeze(-1)
    weights = exponentials(gaps, seen) / weighing.divisor(total, maximum).to(block.dtype)
    null = weighing.null_mass(total, maximum)
    return WholeRows(block, gaps, weights, seen, None if null is None else null.to(block.dtype))


def weigh_rows(logits: Tensor, seen: Tensor, weighing: Weighing) -> Tensor:
    """Weights of whole rows (heads, queries, M) whose statistics nobody has collected."""
    if isinstance(weighing, Direct):
        return weighing.weigh(logits, seen).to(logits.dtype)
    maximum = torch.where(seen, logits, float("-inf")).amax(-1, keepdim=True)
    maximum = maximum.clamp(min=torch.finfo(logits.dtype).min)
    weights = exponentials(torch.where(seen, logits - maximum, 0.0), seen)
    total = weights.sum(-1, keepdim=True, dtype=torch.float64)
    divisor = weighing.divisor(total, maximum.double())
    return weights / torch.where(total > 0, divisor, 1.0).to(logits.dtype)


def exponentials(gaps: Tensor, seen: Tensor) -> Tensor:
    """exp(gap) of what is seen, with those below the smallest normal number at 0."""
    limit = underflow_gap(gaps.dtype)
    return torch.where(seen & (gaps >= -limit), gaps.clamp(min=-limit).exp(), 0.0)
