"""A second look at the rows by the library: shares of keys, and how sparse rows are."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from service.attention.logits import Logits
from service.attention.native import description
from service.attention.native.description import Description
from service.attention.native.dividing import Call, a_call, divide
from service.attention.native.library import Native
from service.attention.native.structures import Cursor, Job, Revisit
from service.attention.normalizing import Weighing
from service.attention.statistics import RowStatistics
from service.attention.workers import Workers
from service.shape import Shape

# The queries of a key head are summed in as many parts as make so many of all key heads together,
# so that a few heads occupy several threads. Bytes depend on the parts, so that these depend
# neither on the threads nor on the batch.
_PARTS = 16


@dataclass(frozen=True, slots=True)
class Revisiting:
    """A second look that the library can take; `threshold` None where no weights are counted."""

    native: Native
    description: Description
    statistics: RowStatistics
    key_share: bool
    threshold: float | None

    @classmethod
    def of(
        cls,
        native: Native,
        logits: Logits,
        statistics: RowStatistics,
        weighing: Weighing,
        *,
        shape: Shape,
        dtype: torch.dtype,
        key_share: bool,
        threshold: float | None,
    ) -> "Revisiting | None":
        """The look, or None where the logits are not of that form."""
        described = Description.of(logits, weighing, shape=shape, dtype=dtype)
        if described is None:
            return None
        return cls(native, described, statistics, key_share, threshold)

    def run(
        self, skipped: Sequence[int], workers: Workers, checkpoint: Callable[[], None]
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Look at all batch items but those `skipped`, which stay at 0.

        Returns:
            Σ weights and how many rows see a key, (batch, heads, M), where the share is wanted;
            the share of a row's weights that are small, (batch, heads, N), where that is.

        Raises:
            MemoryError: no memory for a thread's buffers; whatever `checkpoint` raises.
        """
        shape, job = self.description.shape, self.description.job()
        asked, keys = self._asked(job, skipped), (shape.batch, shape.heads, shape.key_length)
        share = seen_by = small = None
        if self.key_share:
            share, seen_by = torch.zeros(2, asked.parts, *keys, dtype=torch.float64)
        if self.threshold is not None:
            small = torch.zeros((*keys[:2], shape.query_length), dtype=torch.float64)
        asked.point(share=share, seen_by=seen_by, small=small)
        most = a_call(shape.group * min(job.query_block, shape.query_length) * shape.key_length)

        def begin() -> Call:
            cursor = Cursor()
            return lambda: self.native.revisit(asked, cursor, most)

        units = shape.batch * shape.kv_heads * asked.parts
        divide(job, begin, workers, checkpoint, units=units)
        if small is not None:
            visible = self.statistics.visible
            small = torch.where(visible > 0, small / visible, math.nan)
        return _in_order(share), _in_order(seen_by), small

    def _asked(self, job: Job, skipped: Sequence[int]) -> Revisit:
        asked = Revisit()
        asked.about(job)
        asked.parts = parts(self.description.shape)
        leaves = torch.zeros(self.description.shape.batch, dtype=torch.uint8)
        leaves[list(skipped)] = 1
        asked.point(
            maximum=self.statistics.maximum.contiguous(),
            tail=self.statistics.tail.contiguous(),
            skipped=leaves,
        )
        asked.gap = -math.inf if self.threshold is None else math.log(self.threshold)
        return asked


def parts(shape: Shape) -> int:
    """In how many parts the queries of a head are summed."""
    blocks = -(-shape.query_length // description.QUERY_BLOCK)
    return max(1, min(blocks, -(-_PARTS // shape.kv_heads)))


def _in_order(sums: Tensor | None) -> Tensor | None:
    """The parts added one after another: a sum over an axis has an order of its own."""
    if sums is None:
        return None
    whole = sums[0]
    for part in sums[1:]:
        whole += part
    return whole
