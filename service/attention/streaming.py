"""The pass: output and row statistics over blocks, without ever holding the weights.

Online softmax (Milakov and Gimelshein 2018, arXiv 1805.02867; Dao et al. 2022, arXiv 2205.14135),
with the sums of `statistics` collected from each block while it is in the cache.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from service.attention import rows
from service.attention.blocks import KEY_BLOCK, Unit, cut, extent, ranges, unit_logits
from service.attention.logits import Logits, ScoreKeys, Workspace
from service.attention.nonfinite import weigh_nonfinite
from service.attention.statistics import (
    BLOCK_COLUMNS,
    NEGATIVE_INFINITY,
    SCORES,
    TAIL,
    RowStatistics,
)
from service.attention.workers import Workers
from service.shape import Shape

Checkpoint = Callable[[], None]
"""Called between units; raises when the work is no longer wanted."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the pass collects beside the statistics; matrices are (batch, heads, N, M)."""

    output: bool = True
    weights: bool = False
    logits: bool = False
    scores: bool = False
    score_moments: bool = False

    @property
    def matrices(self) -> bool:
        """Whether something of the size of the weights is held."""
        return self.weights or self.logits or self.scores


@dataclass(slots=True)
class Attended:
    """What the pass gives: output (batch, heads, N, d_v), statistics (batch, heads, N)."""

    statistics: RowStatistics
    output: Tensor | None
    weights: Tensor | None
    logits: Tensor | None
    scores: Tensor | None


def attend(
    logits: Logits,
    value: Tensor | None,
    *,
    shape: Shape,
    wanted: Wanted,
    dtype: torch.dtype,
    answer_dtype: torch.dtype,
    device: torch.device,
    workers: Workers,
    checkpoint: Checkpoint = lambda: None,
) -> Attended:
    """Run the pass over all rows.

    Args:
        logits: the pipeline up to the normaliser.
        value: (batch, kv_heads, M, d_v) in `dtype`, or None.
        shape: the resolved extents.
        wanted: what to collect.
        dtype: float32 or float64, of all arithmetic.
        answer_dtype: dtype of output and weights.
        device: where it runs.
        workers: the threads that share the units.
        checkpoint: called between units.

    Returns:
        Output and statistics, and the matrices that are wanted.
    """
    job = _Pass(logits, value, shape, wanted, dtype, answer_dtype, device, checkpoint)
    units = cut(shape, key_block=job.key_block)
    workers.run(units, job.work)
    return job.result()


class _Pass:
    def __init__(
        self,
        logits: Logits,
        value: Tensor | None,
        shape: Shape,
        wanted: Wanted,
        dtype: torch.dtype,
        answer_dtype: torch.dtype,
        device: torch.device,
        checkpoint: Checkpoint,
    ) -> None:
        self.logits, self.shape, self.wanted = logits, shape, wanted
        self.dtype, self.device, self.checkpoint = dtype, device, checkpoint
        # Weights need the row's final maximum, so whole rows are taken where a matrix is held.
        self.key_block = shape.key_length if wanted.matrices else min(KEY_BLOCK, shape.key_length)
        self.items = () if value is None else aligned(value)
        self.value_finite = value is None or bool(torch.isfinite(value.sum()))
        lead = (shape.batch, shape.heads, shape.query_length)
        new = partial(torch.zeros, device=device)
        # One range of keys leaves its columns, rewritten for all rows at once: on small requests
        # that arithmetic, unit by unit, took a quarter of the time.
        self.single = self.key_block == shape.key_length
        self.columns = new((BLOCK_COLUMNS, *lead), dtype=torch.float64)
        if not self.single:
            self.columns = RowStatistics.empty(*lead, device=device).stack()
        answered = partial(new, dtype=answer_dtype)
        full = (*lead, shape.key_length)
        d_v = value.shape[-1] if value is not None and wanted.output else None
        self.output = answered((*lead, d_v)) if d_v is not None else None
        self.weights = answered(full) if wanted.weights else None
        self.shown_logits = new(full, dtype=dtype) if wanted.logits else None
        if self.shown_logits is not None:
            self.shown_logits.fill_(NEGATIVE_INFINITY)
        self.scores = new(full, dtype=dtype) if wanted.scores else None

    def result(self) -> Attended:
        """What all units together gave."""
        columns = self.columns
        statistics = RowStatistics.of(columns) if self.single else RowStatistics(*columns.unbind())
        return Attended(statistics, self.output, self.weights, self.shown_logits, self.scores)

    @torch.inference_mode()
    def work(self, units: Iterable[Unit]) -> None:
        """Compute the units that this thread is handed."""
        size = unit_logits(self.shape, key_block=self.key_block)
        workspace = Workspace(size, self.dtype, self.device)
        for unit in units:
            self.checkpoint()
            self._unit(unit, workspace)

    def _unit(self, unit: Unit, workspace: Workspace) -> None:
        score = self.logits.scorer.unit(unit)
        index = (unit.batch, unit.heads, unit.queries)
        parts: list[Tensor] = []
        running = _RunningOutput()
        for keys in ranges(self.shape.key_length, self.key_block):
            visible = self.logits.visibility.visible(unit, keys)
            if visible is False and not self.wanted.scores:
                continue
            seen = self._mask(visible, keys)
            block = self._block(score, unit, keys, seen, workspace)
            parts.append(block.columns)
            product = self._weigh(block.exponentials, unit, keys, seen)
            running.add(product, block.maximum if not self.single else None)
        if not parts:
            return
        if self.single:
            self.columns[: len(parts[0]), *index] = parts[0]
            tail = parts[0][TAIL]
        else:
            total = RowStatistics.merge_blocks(parts)
            self._recount_underflow(score, unit, total, workspace)
            self.columns[:, *index] = total.stack()
            tail = total.tail
        divisor = (1 + tail).to(self.dtype).unsqueeze(-1)
        if self.output is not None and running.output is not None:
            torch.div(running.output, divisor, out=self.output[index])
        if self.weights is not None:
            torch.div(block.exponentials, divisor, out=self.weights[index])

    def _mask(self, visible: bool | Tensor, keys: slice) -> Tensor | None:
        if visible is True:
            return None
        if visible is False:
            visible = torch.zeros(1, 1, 1, dtype=torch.bool, device=self.device)
        return visible.expand(*visible.shape[:-1], extent(keys))

    def _block(
        self, score: ScoreKeys, unit: Unit, keys: slice, visible: Tensor | None, work: Workspace
    ) -> rows.Block:
        logits, score_moments = self._logits(score, unit, keys, visible, work)
        spare = work.view(1, unit, keys), work.view(2, unit, keys)
        block = rows.fast(logits, visible, keys.start, spare)
        if block is None:
            logits, score_moments = self._logits(score, unit, keys, visible, work)
            block = rows.exact(logits, visible, keys.start)
        if score_moments is not None:
            columns = score_moments.new_zeros(BLOCK_COLUMNS, *score_moments.shape[1:])
            columns[: len(block.columns)] = block.columns
            columns[SCORES] = score_moments
            block.columns = columns
        return block

    def _logits(
        self, score: ScoreKeys, unit: Unit, keys: slice, visible: Tensor | None, work: Workspace
    ) -> tuple[Tensor, Tensor | None]:
        block = work.view(0, unit, keys)
        index = (unit.batch, unit.heads, unit.queries)
        score(keys, block)
        if self.scores is not None:
            self.scores[index] = block
        moments = rows.moments(block, visible) if self.wanted.score_moments else None
        self.logits.shape_scores(block, unit, keys)
        if self.shown_logits is not None:
            shown = block if visible is None else torch.where(visible, block, NEGATIVE_INFINITY)
            self.shown_logits[index] = shown
        return block, moments

    def _weigh(
        self, exponentials: Tensor, unit: Unit, keys: slice, visible: Tensor | None
    ) -> Tensor | None:
        if self.output is None:
            return None
        value = self.items[unit.batch][unit.kv_heads, keys]
        kv_heads, group = extent(unit.kv_heads), self.shape.group
        queries = extent(unit.queries)
        stacked = exponentials.reshape(kv_heads, group * queries, extent(keys))
        if self.value_finite:
            product = torch.bmm(stacked, value)
        else:
            seen = torch.ones_like(exponentials, dtype=torch.bool)
            if visible is not None:
                seen = visible.expand_as(exponentials)
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


class _RunningOutput:
    """Σ u·v over the key ranges so far, referred to the running maximum."""

    def __init__(self) -> None:
        self.output: Tensor | None = None
        self.maximum: Tensor | None = None

    def add(self, product: Tensor | None, maximum: Tensor | None) -> None:
        """Add the next range's share, whose exponentials are referred to `maximum`."""
        if product is None or maximum is None or self.output is None or self.maximum is None:
            self.output, self.maximum = product, maximum
            return
        # −∞ against −∞, two ranges without a key, must give a factor of 0 and not NaN.
        highest = torch.maximum(self.maximum, maximum).clamp(min=-1e300)
        self.output.mul_(_factor(self.maximum - highest, product))
        self.output.add_(product.mul_(_factor(maximum - highest, product)))
        self.maximum = highest


def _factor(shift: Tensor, like: Tensor) -> Tensor:
    return shift.exp().to(like.dtype).unsqueeze(-1)


def aligned(tensor: Tensor) -> tuple[Tensor, ...]:
    """The batch items, each copied where its address would let a product round differently."""
    items = tensor.unbind(0)
    return tuple(item if item.data_ptr() % 64 == 0 else item.clone() for item in items)
