"""From a unit and a range of keys to logits: score → scale → softcap → + bias → masks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from service.attention.blocks import Unit, extent
from service.attention.pattern import Pattern

ScoreKeys = Callable[[slice, Tensor], Tensor | None]
"""Writes the scores (heads, queries, keys) of a range of keys into a tensor.

Returns the scorer's own figures of each score, (figure, heads, queries, keys), where it has any.
"""


Factor = float | Tensor
"""One number for all rows, or one for each: (batch, heads, N) in the compute dtype."""


def at(factor: Factor, unit: Unit) -> Factor:
    """The part for a unit: a number, or (heads, queries, 1)."""
    if isinstance(factor, Tensor):
        return factor[unit.batch, unit.heads, unit.queries].unsqueeze(-1)
    return factor


@dataclass(frozen=True, slots=True)
class Products:
    """Operands whose dot products are the scores: batch items (heads or kv_heads, rows, d)."""

    query: tuple[Tensor, ...]
    key: tuple[Tensor, ...]


class Scorer(Protocol):
    """A mechanism's score function over prepared operands.

    `figures` names what its scores can come with; their sums over the visible keys are collected
    where the unit is asked for them.
    """

    @property
    def products(self) -> Products | None:
        """What the scores are the dot products of, where they are."""

    @property
    def figures(self) -> tuple[str, ...]:
        """Names of the figures that come with each score; none, for most."""

    def unit(self, unit: Unit, *, figures: bool = False) -> ScoreKeys:
        """Prepare the queries of a unit once; the result is called for each range of keys."""


class Visibility(Protocol):
    """The masks, resolved against the shapes."""

    def visible(self, unit: Unit, keys: slice) -> bool | Tensor:
        """True: every key; False: none; else boolean, broadcastable to (heads, queries, keys)."""

    def bias(self, unit: Unit, keys: slice) -> Tensor | None:
        """What is added to the logits, finite, broadcastable to (heads, queries, keys)."""

    def pattern(self) -> Pattern | None:
        """All of it at once; None where that has no such form."""


@dataclass(frozen=True, slots=True)
class Logits:
    """The part of the pipeline before the normaliser. `scale` None leaves the scores as they are.

    Order matters: softcap before bias and masks, else −∞ would become −c and leak.
    """

    scorer: Scorer
    visibility: Visibility
    scale: Factor | None
    softcap: Factor | None

    def shape_scores(self, scores: Tensor, unit: Unit, keys: slice) -> Tensor:
        """Turn the scores of a block into logits, in place; hidden keys are not marked yet."""
        if self.scale is not None:
            scores.mul_(at(self.scale, unit))
        if self.softcap is not None:
            softcap = at(self.softcap, unit)
            scores.div_(softcap).tanh_().mul_(softcap)
        bias = self.visibility.bias(unit, keys)
        if bias is not None:
            scores.add_(bias)
        return scores


class Workspace:
    """Buffers one thread uses again and again: a fresh block would be mapped page by page."""

    def __init__(self, logits: int, dtype: torch.dtype, device: torch.device) -> None:
        self._buffers = [torch.empty(logits, dtype=dtype, device=device) for _ in range(3)]

    def view(self, index: int, unit: Unit, keys: slice) -> Tensor:
        """Buffer `index` as a contiguous (heads, queries, keys) block."""
        shape = (extent(unit.heads), extent(unit.queries), extent(keys))
        return self._buffers[index][: shape[0] * shape[1] * shape[2]].view(shape)
