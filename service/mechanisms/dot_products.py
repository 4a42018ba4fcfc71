"""q·k for a block of queries and a range of keys, normalised first where that is asked for."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from schemas.mechanisms import QkNorm
from service.attention.aligned import aligned
from service.attention.blocks import Unit, extent
from service.attention.gradients import ScoreGradients
from service.attention.logits import Products, ScoreKeys

_SMALLEST_NORM = 1e-12
_RMS_EPSILON = 1e-6


@dataclass(frozen=True, slots=True)
class DotProducts:
    """q·k for every query and key of a block; query and key are the aligned batch items."""

    query: tuple[Tensor, ...]
    key: tuple[Tensor, ...]
    group: int

    @classmethod
    def of(cls, query: Tensor, key: Tensor) -> "DotProducts":
        """Over query (batch, heads, N, d) and key (batch, kv_heads, M, d)."""
        return cls(aligned(query), aligned(key), query.shape[1] // key.shape[1])

    @property
    def products(self) -> Products:
        """Query and key."""
        return Products(self.query, self.key)

    @property
    def figures(self) -> tuple[str, ...]:
        """Nothing but the scores."""
        return ()

    def unit(self, unit: Unit, *, figures: bool = False) -> ScoreKeys:
        """Stack the queries that share a key head, so that each key head is one product."""
        kv_heads, queries = extent(unit.kv_heads), extent(unit.queries)
        query = self.query[unit.batch][unit.heads, unit.queries]
        stacked = query.reshape(kv_heads, self.group * queries, query.shape[-1])
        key = self.key[unit.batch][unit.kv_heads]

        def score(keys: slice, out: Tensor) -> None:
            products = out.view(kv_heads, self.group * queries, extent(keys))
            torch.bmm(stacked, key[:, keys].transpose(1, 2), out=products)

        return score

    def backward(self, unit: Unit, upstream: Tensor) -> ScoreGradients:
        """Dq = dS k, dk = dSᵀ q."""
        kv_heads = extent(unit.kv_heads)
        query = self.query[unit.batch][unit.heads, unit.queries]
        stacked = query.reshape(kv_heads, -1, query.shape[-1])
        on_scores = upstream.reshape(kv_heads, -1, upstream.shape[-1])
        on_query = torch.bmm(on_scores, self.key[unit.batch][unit.kv_heads])
        on_key = torch.bmm(on_scores.transpose(1, 2), stacked)
        return ScoreGradients(on_query.view(query.shape), on_key)


def normalize(tensor: Tensor, kind: QkNorm) -> Tensor:
    """QK-norm over the last axis (Henry et al. 2020, arXiv 2010.04245; RMSNorm, 1910.07467)."""
    if kind == "none":
        return tensor
    # In float64: the squares of large float32 entries would leave float32.
    wide = tensor.double()
    if kind == "l2":
        norm: Tensor = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        return (wide / norm.clamp(min=_SMALLEST_NORM)).to(tensor.dtype)
    mean = wide.square().mean(-1, keepdim=True)
    return (wide * torch.rsqrt(mean + _RMS_EPSILON)).to(tensor.dtype)


def scale_of(kind: QkNorm, d_k: int) -> float:
    """1/sqrt(d_k), or sqrt(d_k) for unit vectors, whose products have variance 1/d_k."""
    return math.sqrt(d_k) if kind == "l2" else 1.0 / math.sqrt(d_k)
