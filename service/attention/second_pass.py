"""What needs the rows' final maximum and sum: a second look at the logits, linear in memory."""

import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from service.attention.blocks import Unit, cut_by_heads, unit_logits
from service.attention.flips import flip_margin
from service.attention.logits import Factor, Logits, Workspace, at
from service.attention.native.library import Native
from service.attention.native.revisiting import Revisiting
from service.attention.normalizing import Direct, Weighing
from service.attention.spectrum import largest_eigenvalue
from service.attention.statistics import RowStatistics
from service.attention.whole_rows import WholeRows, read_rows
from service.attention.workers import Checkpoint, Workers
from service.shape import Shape


@dataclass(frozen=True, slots=True)
class Flips:
    """What flip margins are computed from: keys (batch, kv_heads, M, d) and the scale."""

    key: Tensor
    scale: Factor


@dataclass(frozen=True, slots=True)
class Second:
    """What to collect; `sparsity` is the threshold relative to the row's maximum, or None."""

    key_share: bool = False
    sparsity: float | None = None
    jacobian_spectral: bool = False
    flips: Flips | None = None

    @property
    def anything(self) -> bool:
        """Whether a second pass is needed at all."""
        wanted = (self.key_share, self.jacobian_spectral, self.sparsity is not None)
        return any(wanted) or self.flips is not None

    @property
    def sums_only(self) -> bool:
        """Whether it takes no more than sums and counts of weights."""
        return not self.jacobian_spectral and self.flips is None


@dataclass(slots=True)
class Revisited:
    """float64 figures: `key_share`, `seen_by` (batch, heads, M); the others (batch, heads, N).

    `key_share` is the mean weight that key j gets from the rows that see it, NaN where none does;
    `seen_by` counts those rows.
    """

    key_share: Tensor | None = None
    seen_by: Tensor | None = None
    rows: dict[str, Tensor] = field(default_factory=dict)


def revisit(
    logits: Logits,
    statistics: RowStatistics,
    second: Second,
    weighing: Weighing,
    *,
    shape: Shape,
    dtype: torch.dtype,
    device: torch.device,
    workers: Workers,
    checkpoint: Checkpoint = lambda: None,
    native: Native | None = None,
) -> Revisited:
    """Compute the logits again and collect what `second` asks for; by `native` where it can."""
    job = _Revisit(logits, statistics, second, weighing, shape, dtype, device, checkpoint)
    left: Collection[int] = range(shape.batch)
    fused = job.fused(native) if native is not None and device.type == "cpu" else None
    if fused is not None:
        # By batch item, so that none depends on the others'.
        left = statistics.overflowed.flatten(1).any(1).nonzero().flatten().tolist()
        job.take(*fused.run(left, workers, checkpoint))
    if left:
        # Units of the same heads together: their key shares add up in one order on one thread.
        workers.run(_of_items(left, shape), job.work)
    return job.result()


def _of_items(items: Collection[int], shape: Shape) -> Iterator[Iterator[Unit]]:
    """The units of some batch items."""
    one = replace(shape, batch=1)
    for item in items:
        for units in cut_by_heads(one, key_block=shape.key_length):
            yield map(partial(replace, batch=item), units)


class _Revisit:
    def __init__(
        self,
        logits: Logits,
        statistics: RowStatistics,
        second: Second,
        weighing: Weighing,
        shape: Shape,
        dtype: torch.dtype,
        device: torch.device,
        checkpoint: Checkpoint,
    ) -> None:
        self.logits, self.statistics, self.second, self.shape = logits, statistics, second, shape
        self.weighing = weighing
        self.dtype, self.device, self.checkpoint = dtype, device, checkpoint
        lead = (shape.batch, shape.heads)
        new = torch.zeros
        keys = (*lead, shape.key_length) if second.key_share else (0,)
        self.share = new(keys, dtype=torch.float64, device=device)
        self.seen_by = new(keys, dtype=torch.float64, device=device)
        self.rows: dict[str, Tensor] = {}
        for name, wanted in (
            ("sparsity", second.sparsity is not None),
            ("jacobian_spectral", second.jacobian_spectral),
            ("flip_margin", second.flips is not None),
        ):
            if wanted:
                rows = (*lead, shape.query_length)
                self.rows[name] = torch.full(rows, math.nan, dtype=torch.float64, device=device)

    def fused(self, native: Native) -> Revisiting | None:
        """The same by the compiled second look, where it can."""
        if not self.second.sums_only:
            return None
        return Revisiting.of(
            native,
            self.logits,
            self.statistics,
            self.weighing,
            shape=self.shape,
            dtype=self.dtype,
            key_share=self.second.key_share,
            threshold=self.second.sparsity,
        )

    def take(self, share: Tensor | None, seen_by: Tensor | None, sparsity: Tensor | None) -> None:
        """Go on from what has been collected of other batch items."""
        if share is not None and seen_by is not None:
            self.share, self.seen_by = share, seen_by
        if sparsity is not None:
            self.rows["sparsity"] = sparsity

    @torch.inference_mode()
    def work(self, groups: Iterable[Iterable[Unit]]) -> None:
        size = unit_logits(self.shape, key_block=self.shape.key_length)
        workspace = Workspace(size, self.dtype, self.device)
        for units in groups:
            for unit in units:
                self.checkpoint()
                self._unit(unit, workspace)

    def _unit(self, unit: Unit, workspace: Workspace) -> None:
        index = (unit.batch, unit.heads, unit.queries)
        block = read_rows(
            self.logits, self.weighing, self.statistics, unit, self.shape.key_length, workspace
        )
        if block is None:
            return
        sound = self.statistics.overflowed[index] == 0
        valid = (sound & (self.statistics.visible[index] > 0)).unsqueeze(-1)
        if self.second.key_share:
            heads = (unit.batch, unit.heads)
            self.share[heads] += torch.where(valid, block.weights, 0.0).sum(1, dtype=torch.float64)
            self.seen_by[heads] += (block.seen & valid).sum(1)
        if self.second.sparsity is not None:
            small = self._small(block, self.second.sparsity) & block.seen
            share = small.sum(-1) / block.seen.sum(-1).double()
            self.rows["sparsity"][index] = torch.where(valid.squeeze(-1), share, math.nan)
        if self.second.flips is not None:
            margin = self._flip_margin(block, self.second.flips, unit)
            self.rows["flip_margin"][index] = torch.where(valid.squeeze(-1), margin, math.nan)
        if self.second.jacobian_spectral:
            eigenvalue = self._spectral(block, index)
            self.rows["jacobian_spectral"][index] = torch.where(
                valid.squeeze(-1), eigenvalue, math.nan
            )

    def _flip_margin(self, block: WholeRows, flips: Flips, unit: Unit) -> Tensor:
        argmax = self.statistics.argmax[unit.batch, unit.heads, unit.queries]
        key = flips.key[unit.batch, unit.kv_heads]
        return flip_margin(block, argmax, key, at(flips.scale, unit))

    def _small(self, block: WholeRows, threshold: float) -> Tensor:
        if isinstance(self.weighing, Direct):
            return block.weights < threshold * block.weights.amax(-1, keepdim=True)
        return block.gaps < math.log(threshold)

    def _spectral(self, block: WholeRows, index: tuple[int, slice, slice]) -> Tensor:
        tail, argmax = self.statistics.tail[index], self.statistics.argmax[index]
        at = argmax.clamp(min=0).long().unsqueeze(-1)
        others = block.weights.double().scatter(-1, at, 0.0)
        return largest_eigenvalue(1 / (1 + tail), tail / (1 + tail), others)

    def result(self) -> Revisited:
        if not self.second.key_share:
            return Revisited(rows=self.rows)
        share = torch.where(self.seen_by > 0, self.share / self.seen_by, math.nan)
        return Revisited(share, self.seen_by, self.rows)
