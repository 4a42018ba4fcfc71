"""Scaled dot-product attention (Vaswani et al. 2017, arXiv 1706.03762, section 3.2.1)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from service.attention.blocks import Unit, extent
from service.attention.logits import ScoreKeys, Scorer
from service.attention.streaming import aligned
from service.mechanisms.base import Description
from service.operands import Operands
from service.shape import Shape


class ScaledDotProduct:
    """score(q, k) = q·k, scaled by 1/sqrt(d_k)."""

    description = Description(
        name="scaled_dot_product",
        meaning="Similarity of query and key by their dot product, whose variance for independent "
        "unit-variance entries is d_k; the scale 1/sqrt(d_k) brings it back to 1.",
        formula="softmax(q kᵀ / sqrt(d_k)) v",
        source="Vaswani et al. 2017, Attention Is All You Need, arXiv 1706.03762, equation 1",
    )

    def default_scale(self, shape: Shape) -> float:
        """1/sqrt(d_k)."""
        return 1.0 / math.sqrt(shape.d_k or 1)

    def scorer(self, operands: Operands, shape: Shape) -> Scorer:
        """Dot products of (batch, heads, N, d_k) and (batch, kv_heads, M, d_k)."""
        if operands.query is None or operands.key is None:
            message = "dot products need a query and a key"
            raise TypeError(message)
        return DotProducts(aligned(operands.query), aligned(operands.key), shape.group)

    def flops(self, shape: Shape) -> int:
        """A multiplication and an addition for each dimension of each pair."""
        return 2 * shape.logits * (shape.d_k or 0)


@dataclass(frozen=True, slots=True)
class DotProducts:
    """q·k for every query and key of a block; query and key are the aligned batch items."""

    query: tuple[Tensor, ...]
    key: tuple[Tensor, ...]
    group: int

    def unit(self, unit: Unit) -> ScoreKeys:
        """Stack the queries that share a key head, so that each key head is one product."""
        kv_heads, queries = extent(unit.kv_heads), extent(unit.queries)
        query = self.query[unit.batch][unit.heads, unit.queries]
        stacked = query.reshape(kv_heads, self.group * queries, query.shape[-1])
        key = self.key[unit.batch][unit.kv_heads]

        def score(keys: slice, out: Tensor) -> None:
            products = out.view(kv_heads, self.group * queries, extent(keys))
            torch.bmm(stacked, key[:, keys].transpose(1, 2), out=products)

        return score
