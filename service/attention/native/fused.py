"""From the parts of a pass to the job of the library: what it can compute, and how it is cut."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from service.attention.aligned import on_boundary
from service.attention.blocks import BLOCK_LOGITS, Unit
from service.attention.collected import Collected, Precision, Wanted
from service.attention.logits import Factor, Logits, Products
from service.attention.native.library import Native
from service.attention.native.structures import KINDS, Job
from service.attention.normalizing import Exponential, Weighing
from service.attention.pattern import Pattern
from service.attention.workers import Workers
from service.shape import Shape

# Measured on 2 cores over queries of 128 … 8,192: 256 × 1,024 logits a block are best from 1,024
# keys on, and nothing is lost below.
QUERY_BLOCK = 256
KEY_BLOCK = 1024
# As many logits take a core some 10 ms; between such pieces a thread looks whether it is to go on.
LOGITS_A_CALL = 2**22
# Two threads gain nothing on fewer logits: the second takes 50 µs to begin.
_ALONE = 2**16


@dataclass(frozen=True, slots=True)
class Fused:
    """A pass that the library computes whole: a softmax over scaled dot products."""

    native: Native
    products: Products
    pattern: Pattern
    logits: Logits
    value: tuple[Tensor, ...] | None
    null_weight: float
    shape: Shape
    wanted: Wanted
    precision: Precision

    @classmethod
    def of(
        cls,
        native: Native,
        logits: Logits,
        value: tuple[Tensor, ...] | None,
        weighing: Weighing,
        *,
        shape: Shape,
        wanted: Wanted,
        precision: Precision,
    ) -> "Fused | None":
        """The pass, or None where it is not of that form."""
        products, pattern = logits.scorer.products, logits.visibility.pattern()
        if products is None or pattern is None or not isinstance(weighing, Exponential):
            return None
        fitting = _alike(products.query), _alike(products.key)
        return cls(
            native,
            Products(*fitting),
            pattern,
            logits,
            None if value is None else _alike(value),
            weighing.null_weight,
            shape,
            wanted,
            precision,
        )

    def run(self, into: Collected, workers: Workers, checkpoint: Callable[[], None]) -> list[Unit]:
        """Write output, statistics and matrices of all rows, but for the units it gives back.

        Those hold a logit that is not finite, or rows that spread beyond what squares in the
        compute dtype hold; they are left to a pass that takes any logit.

        Raises:
            MemoryError: no memory for a thread's buffers; whatever `checkpoint` raises.
        """
        shape = self.shape
        job = self._job(into)
        blocks = -(-shape.query_length // job.query_block)
        units = shape.batch * shape.kv_heads * blocks
        inexact = torch.zeros(units, dtype=torch.uint8)
        job.inexact = inexact.data_ptr()
        a_unit = shape.group * min(job.query_block, shape.query_length) * shape.key_length
        most = max(1, LOGITS_A_CALL // a_unit)

        def work() -> None:
            checkpoint()
            while self.native.run(job, units, most):
                checkpoint()

        def stop() -> None:
            job.stopped = 1

        workers.together(work, stop=stop, alone=units == 1 or shape.logits <= _ALONE)
        given_up = inexact.nonzero().flatten().tolist() if bool(inexact.any()) else []
        return [self._unit(index, blocks, job.query_block) for index in given_up]

    def _unit(self, index: int, blocks: int, query_block: int) -> Unit:
        kv = index // blocks % self.shape.kv_heads
        start = index % blocks * query_block
        return Unit(
            batch=index // (blocks * self.shape.kv_heads),
            kv_heads=slice(kv, kv + 1),
            heads=slice(kv * self.shape.group, (kv + 1) * self.shape.group),
            queries=slice(start, min(start + query_block, self.shape.query_length)),
        )

    def _job(self, into: Collected) -> Job:
        shape, wanted, job = self.shape, self.wanted, Job()
        job.batch, job.heads, job.kv_heads = shape.batch, shape.heads, shape.kv_heads
        job.queries, job.keys = shape.query_length, shape.key_length
        job.query_block, job.key_block = QUERY_BLOCK, KEY_BLOCK
        if wanted.matrices:
            # Shown weights take the row's final sum, so its keys are held whole.
            job.key_block = shape.key_length
            job.query_block = min(QUERY_BLOCK, max(1, BLOCK_LOGITS // shape.key_length))
        job.kind = KINDS[self.precision.compute]
        job.statistics, job.moments = wanted.statistics, wanted.score_moments
        job.d_k = self.products.query[0].shape[-1]
        job.operand("query", self.products.query)
        job.operand("key", self.products.key)
        if self.value is not None:
            job.d_v = self.value[0].shape[-1]
            job.operand("value", self.value)
        job.factor("scale", self._factor(self.logits.scale), absent=1.0)
        job.factor("softcap", self._factor(self.logits.softcap), absent=0.0)
        self._mask(job)
        job.null_weight = self.null_weight
        job.matrix("output", into.output)
        job.matrix("weights", into.weights)
        job.matrix("logits", into.logits)
        job.matrix("scores", into.scores)
        job.columns = into.columns.data_ptr()
        return job

    def _factor(self, factor: Factor | None) -> Factor | None:
        if not isinstance(factor, Tensor):
            return factor
        shape = self.shape
        return factor.to(self.precision.compute).expand(
            shape.batch, shape.heads, shape.query_length
        )

    def _mask(self, job: Job) -> None:
        pattern = self.pattern
        job.numbers("ends", pattern.ends)
        job.numbers("lower", pattern.lower)
        job.numbers("upper", pattern.upper)
        if pattern.allowed is not None:
            job.dense("allowed", _rows(pattern.allowed.tensor), pattern.allowed.length)
        if pattern.bias is not None:
            job.dense("bias", _rows(pattern.bias.tensor), pattern.bias.length)


def _rows(tensor: Tensor) -> Tensor:
    """With keys side by side."""
    return tensor if tensor.shape[-1] == 1 or tensor.stride(-1) == 1 else tensor.contiguous()


def _alike(items: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Batch items that lie alike, their last axis contiguous."""
    strides = {item.stride() for item in items}
    if len(strides) == 1 and items[0].stride(-1) == 1:
        return items
    return tuple(map(on_boundary, (item.contiguous() for item in items)))
