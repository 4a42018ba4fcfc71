"""From the parts of a pass to the job of the library: what it can compute, and how it is cut."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from service.attention.blocks import BLOCK_LOGITS, Unit
from service.attention.collected import Collected, Precision, Wanted
from service.attention.logits import Logits
from service.attention.native.description import Description, alike
from service.attention.native.dividing import a_call, divide
from service.attention.native.library import Native
from service.attention.native.structures import Job
from service.attention.normalizing import Weighing
from service.attention.workers import Workers
from service.shape import Shape


@dataclass(frozen=True, slots=True)
class Fused:
    """A pass that the library computes whole: a softmax over scaled dot products."""

    native: Native
    description: Description
    value: tuple[Tensor, ...] | None
    wanted: Wanted

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
        described = Description.of(logits, weighing, shape=shape, dtype=precision.compute)
        if described is None:
            return None
        return cls(native, described, None if value is None else alike(value), wanted)

    def run(self, into: Collected, workers: Workers, checkpoint: Callable[[], None]) -> list[Unit]:
        """Write output, statistics and matrices of all rows, but for the units it gives back.

        Those hold a logit that is not finite, or rows that spread beyond what squares in the
        compute dtype hold; they are left to a pass that takes any logit.

        Raises:
            MemoryError: no memory for a thread's buffers; whatever `checkpoint` raises.
        """
        shape, job = self.description.shape, self._job(into)
        blocks = -(-shape.query_length // job.query_block)
        units = shape.batch * shape.kv_heads * blocks
        inexact = job.marks(units)
        most = a_call(shape.group * min(job.query_block, shape.query_length) * shape.key_length)
        call = partial(self.native.run, job, units, most)
        divide(job, lambda: call, workers, checkpoint, units=units)
        if 1 not in inexact:
            return []
        given_up = (index for index, given in enumerate(inexact) if given)
        return [self._unit(index, blocks, job.query_block) for index in given_up]

    def _unit(self, index: int, blocks: int, query_block: int) -> Unit:
        shape = self.description.shape
        kv = index // blocks % shape.kv_heads
        start = index % blocks * query_block
        return Unit(
            batch=index // (blocks * shape.kv_heads),
            kv_heads=slice(kv, kv + 1),
            heads=slice(kv * shape.group, (kv + 1) * shape.group),
            queries=slice(start, min(start + query_block, shape.query_length)),
        )

    def _job(self, into: Collected) -> Job:
        wanted, job = self.wanted, self.description.job()
        if wanted.matrices:
            # Shown weights take the row's final sum, so its keys are held whole.
            job.key_block = job.keys
            job.query_block = min(job.query_block, max(1, BLOCK_LOGITS // job.keys))
        job.statistics, job.moments = wanted.statistics, wanted.score_moments
        if self.value is not None:
            job.d_v = self.value[0].shape[-1]
            job.operand("value", self.value)
        job.matrix("output", into.output)
        job.matrix("weights", into.weights)
        job.matrix("logits", into.logits)
        job.matrix("scores", into.scores)
        job.collect(into.columns)
        return job
