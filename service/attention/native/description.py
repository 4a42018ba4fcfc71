"""What the library is told of a softmax over scaled dot products, whatever it makes of them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from service.attention.aligned import on_boundary
from service.attention.logits import Factor, Logits, Products
from service.attention.native.structures import KINDS, Job
from service.attention.normalizing import Exponential, Weighing
from service.attention.pattern import Pattern
from service.shape import Shape

# Measured on 2 cores over queries of 128 … 8,192: 256 × 1,024 logits a block are best from 1,024
# keys on, and nothing is lost below.
QUERY_BLOCK = 256
KEY_BLOCK = 1024


@dataclass(frozen=True, slots=True)
class Description:
    """Operands, factors and masks of rows whose logits the library can compute."""

    products: Products
    pattern: Pattern
    scale: Factor | None
    softcap: Factor | None
    null_weight: float
    shape: Shape
    dtype: torch.dtype

    @classmethod
    def of(
        cls, logits: Logits, weighing: Weighing, *, shape: Shape, dtype: torch.dtype
    ) -> "Description | None":
        """The description, or None where they are not of that form."""
        products, pattern = logits.scorer.products, logits.visibility.pattern()
        if products is None or pattern is None or not isinstance(weighing, Exponential):
            return None
        return cls(
            Products(alike(products.query), alike(products.key)),
            pattern,
            logits.scale,
            logits.softcap,
            weighing.null_weight,
            shape,
            dtype,
        )

    def job(self) -> Job:
        """A job that computes the logits, and collects nothing yet."""
        shape, job = self.shape, Job()
        job.batch, job.heads, job.kv_heads = shape.batch, shape.heads, shape.kv_heads
        job.queries, job.keys = shape.query_length, shape.key_length
        job.query_block, job.key_block = QUERY_BLOCK, KEY_BLOCK
        job.kind = KINDS[self.dtype]
        job.d_k = self.products.query[0].shape[-1]
        job.operand("query", self.products.query)
        job.operand("key", self.products.key)
        job.factor("scale", self._factor(self.scale), absent=1.0)
        job.factor("softcap", self._factor(self.softcap), absent=0.0)
        self._mask(job)
        job.null_weight = self.null_weight
        return job

    def _factor(self, factor: Factor | None) -> Factor | None:
        if not isinstance(factor, Tensor):
            return factor
        shape = self.shape
        return factor.to(self.dtype).expand(shape.batch, shape.heads, shape.query_length)

    def _mask(self, job: Job) -> None:
        pattern = self.pattern
        job.numbers("ends", pattern.ends)
        job.numbers("lower", pattern.lower)
        job.numbers("upper", pattern.upper)
        if pattern.allowed is not None:
            job.dense("allowed", _rows(pattern.allowed.tensor), pattern.allowed.length)
        if pattern.bias is not None:
            job.dense("bias", _rows(pattern.bias.tensor), pattern.bias.length)


def alike(items: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Batch items that lie alike, their last axis contiguous."""
    strides = {item.stride() for item in items}
    if len(strides) == 1 and items[0].stride(-1) == 1:
        return items
    return tuple(map(on_boundary, (item.contiguous() for item in items)))


def _rows(tensor: Tensor) -> Tensor:
    """With keys side by side."""
    return tensor if tensor.shape[-1] == 1 or tensor.stride(-1) == 1 else tensor.contiguous()
