"""The general way: any logits, masks, normalisers and matrices, block by block.

Online softmax (Milakov and Gimelshein 2018, arXiv 1805.02867; Dao et al. 2022, arXiv 2205.14135),
with the sums of `statistics` collected from each block while it is in the cache.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import torch
from torch import Tensor

from service.attention import rows
from service.attention.aligned import aligned
from service.attention.blocks import Unit, cut, extent, ranges, smaller, unit_logits
from service.attention.collected import Collected, Precision, Wanted
from service.attention.logits import Logits, ScoreKeys, Workspace
from service.attention.nonfinite import weigh_nonfinite
from service.attention.normalizing import Direct, Weighing, add_weight_sums, weight_sums
from service.attention.running import RunningOutput
from service.attention.statistics import (
    BLOCK_COLUMNS,
    MAXIMUM,
    NEGATIVE_INFINITY,
    SCORES,
    TAIL,
    RowStatistics,
)
from service.attention.workers import Checkpoint, Workers
from service.shape import Shape

# Measured on 2 cores: units of 960 logits take 0.82 ms on one thread and 1.04 ms on two, units of
# 131,072 take 3.0 and 2.8 ms.
_SMALL_UNIT = 2**15


@dataclass(slots=True)
class _Scored:
    """A block's logits, the moments of its scores, and the figures they came with."""

    logits: Tensor
    moments: Tensor | None
    figures: Tensor | None


class General:
    """The way over one pass; other ways may write `into` first, and leave it some units."""

    def __init__(
        self,
        logits: Logits,
        value: Tensor | None,
        weighing: Weighing,
        shape: Shape,
        wanted: Wanted,
        precision: Precision,
        device: torch.device,
        checkpoint: Checkpoint,
        *,
        key_block: int,
    ) -> None:
        self.logits, self.shape, self.wanted, self.weighing = logits, shape, wanted, weighing
        self.dtype, self.device, self.checkpoint = precision.compute, device, checkpoint
        self.key_block = key_block
        self.items = () if value is None else aligned(value)
        self.value = value
        self.precision, self.d_v = precision, None if value is None else value.shape[-1]

    def collect(self, *, blocks: bool, filled: bool = True) -> None:
        """Make the tensors that are written; `blocks` where statistics of parts are merged."""
        self.into = Collected(
            self.shape,
            self.wanted,
            self.precision,
            self.device,
            d_v=self.d_v,
            whole_rows=not blocks,
            direct=isinstance(self.weighing, Direct),
            figures=self.logits.scorer.figures,
            filled=filled,
        )

    @property
    def weighed(self) -> tuple[Tensor, ...] | None:
        """The values, where they are to be weighed."""
        return self.items if self.wanted.output and self.items else None

    @cached_property
    def value_finite(self) -> bool:
        """Whether a plain product applies; a sum that overflows is only slower."""
        return self.value is None or bool(torch.isfinite(self.value.sum()))

    def take_over(self, units: list[Unit], workers: Workers) -> None:
        """Compute what another way has given back."""
        if not units:
            return
        block = self.key_block
        own = list(chain.from_iterable(smaller(unit, key_block=block) for unit in units))
        size = max(extent(unit.heads) * extent(unit.queries) for unit in own) * block
        workers.run(own, lambda units: self._work(units, size))

    def run(self, workers: Workers) -> None:
        """Compute all rows."""
        size = unit_logits(self.shape, key_block=self.key_block)
        workers.run(
            cut(self.shape, key_block=self.key_block),
            lambda units: self._work(units, size),
            alone=size < _SMALL_UNIT,
        )

    @torch.inference_mode()
    def _work(self, units: Iterable[Unit], size: int) -> None:
        """Compute the units that this thread is handed; each holds `size` logits at most."""
        workspace = Workspace(size, self.dtype, self.device)
        for unit in units:
            self.checkpoint()
            self._unit(unit, workspace)

    def _unit(self, unit: Unit, workspace: Workspace) -> None:
        score = self.logits.scorer.unit(unit, figures=self.into.figures is not None)
        index = (unit.batch, unit.heads, unit.queries)
        parts: list[Tensor] = []
        running = RunningOutput()
        for keys in ranges(self.shape.key_length, self.key_block):
            visible = self.logits.visibility.visible(unit, keys)
            if visible is False and not self.wanted.scores:
                continue
            seen = self._mask(visible, keys)
            block, direct = self._block(score, unit, keys, seen, workspace)
            weights = block.exponentials if direct is None else direct
            shifted = direct is None and not self.into.whole_rows
            parts.append(block.columns)
            product = self._weigh(weights, unit, keys, seen)
            running.add(product, block.maximum if shifted else None)
        if not parts:
            self.into.leave(index)
            return
        divisor = self._write_statistics(score, unit, parts, workspace)
        if self.into.output is not None and running.output is not None:
            _write(running.output, divisor, self.into.output[index])
        if self.into.weights is not None:
            _write(weights, divisor, self.into.weights[index])

    def _write_statistics(
        self, score: ScoreKeys, unit: Unit, parts: list[Tensor], work: Workspace
    ) -> Tensor | None:
        """Write the unit's statistics; what its exponentials are still to be divided by."""
        index = (unit.batch, unit.heads, unit.queries)
        if self.into.whole_rows:
            self.into.columns[: len(parts[0]), *index] = parts[0]
            tail, maximum = parts[0][TAIL], parts[0][MAXIMUM]
        else:
            total = RowStatistics.merge_blocks(parts)
            self._recount_underflow(score, unit, total, work)
            self.into.columns[:, *index] = total.stack()
            tail, maximum = total.tail, total.maximum
        if isinstance(self.weighing, Direct):
            return None
        return self.weighing.divisor(1 + tail, maximum).to(self.dtype).unsqueeze(-1)

    def _mask(self, visible: bool | Tensor, keys: slice) -> Tensor | None:
        if visible is True:
            return None
        if visible is False:
            visible = torch.zeros(1, 1, 1, dtype=torch.bool, device=self.device)
        return visible.expand(*visible.shape[:-1], extent(keys))

    def _block(
        self, score: ScoreKeys, unit: Unit, keys: slice, visible: Tensor | None, work: Workspace
    ) -> tuple[rows.Block, Tensor | None]:
        """The block's statistics, and its weights where they are made directly."""
        scored = self._score(score, unit, keys, visible, work)
        weights = self._weigh_directly(scored.logits, unit, visible)
        spare = work.view(1, unit, keys), work.view(2, unit, keys)
        block = rows.fast(scored.logits, visible, keys.start, spare)
        if block is None:
            scored = self._score(score, unit, keys, visible, work)
            block = rows.exact(scored.logits, visible, keys.start)
        if scored.moments is not None:
            columns = scored.moments.new_zeros(BLOCK_COLUMNS, *scored.moments.shape[1:])
            columns[: len(block.columns)] = block.columns
            columns[SCORES] = scored.moments
            block.columns = columns
        if self.into.figures is not None and scored.figures is not None:
            # By choice, not by product: a hidden key may be NaN.
            shown = scored.figures
            if visible is not None:
                shown = torch.where(visible, shown, 0.0)
            index = (slice(None), unit.batch, unit.heads, unit.queries)
            self.into.figures[index] += shown.sum(-1, dtype=torch.float64)
        return block, weights

    def _weigh_directly(self, logits: Tensor, unit: Unit, visible: Tensor | None) -> Tensor | None:
        if not isinstance(self.weighing, Direct) or self.into.sums is None:
            return None
        wide = self.weighing.weigh(logits, visible)
        index = (slice(None), unit.batch, unit.heads, unit.queries)
        self.into.sums[index] = add_weight_sums(
            self.into.sums[index], weight_sums(wide, self.dtype)
        )
        return wide.to(self.dtype)

    def _score(
        self, score: ScoreKeys, unit: Unit, keys: slice, visible: Tensor | None, work: Workspace
    ) -> _Scored:
        block = work.view(0, unit, keys)
        index = (unit.batch, unit.heads, unit.queries)
        figures = score(keys, block)
        if self.into.scores is not None:
            self.into.scores[index] = block
        moments = rows.moments(block, visible) if self.wanted.score_moments else None
        self.logits.shape_scores(block, unit, keys)
        if self.into.logits is not None:
            shown = block if visible is None else torch.where(visible, block, NEGATIVE_INFINITY)
            self.into.logits[index] = shown
        return _Scored(block, moments, figures)

    def _weigh(
        self, weights: Tensor, unit: Unit, keys: slice, visible: Tensor | None
    ) -> Tensor | None:
        if self.into.output is None:
            return None
        value = self.items[unit.batch][unit.kv_heads, keys]
        kv_heads, group = extent(unit.kv_heads), self.shape.group
        queries = extent(unit.queries)
        stacked = weights.reshape(kv_heads, group * queries, extent(keys))
        if self.value_finite:
            product = torch.bmm(stacked, value)
        else:
            seen = torch.ones_like(weights, dtype=torch.bool)
            if visible is not None:
                seen = visible.expand_as(weights)
            product = weigh_nonfinite(stacked, value, seen.reshape(stacked.shape))
        return product.view(kv_heads * group, queries, value.shape[-1])

    def _recount_underflow(
        self, score: ScoreKeys, unit: Unit, total: RowStatistics, work: Workspace
    ) -> None:
        """Count again from the gap to the final maximum, where a row spreads far enough."""
        limit = rows.underflow_gap(self.dtype)
        total.underflowed = torch.zeros_like(total.tail)
        if not bool(((total.maximum - total.minimum) > limit).any()):
            return
        for keys in ranges(self.shape.key_length, self.key_block):
            visible = self.logits.visibility.visible(unit, keys)
            if visible is False:
                continue
            block = work.view(0, unit, keys)
            score(keys, block)
            gap = self.logits.shape_scores(block, unit, keys) - total.maximum.unsqueeze(-1)
            flushed = (gap < -limit) & torch.isfinite(block)
            if isinstance(visible, Tensor):
                flushed &= visible
            total.underflowed += flushed.sum(-1)


def _write(found: Tensor, divisor: Tensor | None, out: Tensor) -> None:
    if divisor is None:
        out.copy_(found)
    else:
        torch.div(found, divisor, out=out)
