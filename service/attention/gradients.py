"""Gradients on query, key and value of the pass, block by block: linear memory.

dV = Pᵀ g and dP = g Vᵀ; through the normaliser, the softcap and the scale to the scores, and from
there to query and key (Dao et al. 2022, FlashAttention, arXiv 2205.14135, appendix B.2).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from service.attention.blocks import Unit, cut_by_heads, extent, unit_logits
from service.attention.logits import Logits, Workspace, at
from service.attention.normalizing import Weighing, from_preferred
from service.attention.statistics import RowStatistics
from service.attention.whole_rows import read_rows
from service.attention.workers import Checkpoint, Workers
from service.shape import Shape


@dataclass(slots=True)
class ScoreGradients:
    """On query (heads, queries, d), key (kv_heads, M, d) and the scorer's own vector, if any."""

    query: Tensor
    key: Tensor
    vector: Tensor | None = None


class Differentiable(Protocol):
    """A scorer that takes gradients on its scores back to its operands."""

    def backward(self, unit: Unit, upstream: Tensor) -> ScoreGradients:
        """From the gradient on a unit's scores (heads, queries, M)."""


@dataclass(slots=True)
class PassGradients:
    """On query (batch, heads, N, d), key and value (batch, kv_heads, M, …), and the vector.

    `uniform` is the one on the query if all visible keys had equal weights; `closed` the closed
    form scale · Cov_p(V, K)ᵀ g of a dot product's; both None where not asked for.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    vector: Tensor | None
    uniform: Tensor | None
    closed: Tensor | None


@dataclass(frozen=True, slots=True)
class Forward:
    """What the pass computed, and from what: query, key and value of the heads."""

    logits: Logits
    scorer: Differentiable
    weighing: Weighing
    statistics: RowStatistics
    query: Tensor
    key: Tensor
    value: Tensor


def backward(
    forward: Forward,
    upstream: Tensor,
    *,
    uniform: bool,
    closed: bool,
    shape: Shape,
    workers: Workers,
    checkpoint: Checkpoint,
) -> PassGradients:
    """Gradients of ⟨upstream, output⟩; `upstream` (batch, heads, N, d_v)."""
    job = _Backward(forward, upstream, uniform, closed, shape, checkpoint)
    # Units of the same heads together: their keys' gradients add up in one order on one thread.
    workers.run(cut_by_heads(shape, key_block=shape.key_length), job.work)
    job.found.vector = job.total_vector()
    return job.found


class _Backward:
    def __init__(
        self,
        forward: Forward,
        upstream: Tensor,
        uniform: bool,
        closed: bool,
        shape: Shape,
        checkpoint: Checkpoint,
    ) -> None:
        self.forward, self.upstream, self.shape = forward, upstream, shape
        self.checkpoint = checkpoint
        query, key, value = forward.query, forward.key, forward.value
        self.found = PassGradients(
            torch.zeros_like(query),
            torch.zeros_like(key),
            torch.zeros_like(value),
            None,
            torch.zeros_like(query) if uniform else None,
            torch.zeros_like(query) if closed else None,
        )
        self.vectors: dict[tuple[int, int], Tensor] = {}

    @torch.inference_mode()
    def work(self, groups: Iterable[Iterable[Unit]]) -> None:
        """Compute the units that this thread is handed."""
        size = unit_logits(self.shape, key_block=self.shape.key_length)
        workspace = Workspace(size, self.upstream.dtype, self.upstream.device)
        for units in groups:
            for unit in units:
                self.checkpoint()
                self._unit(unit, workspace)

    def _unit(self, unit: Unit, workspace: Workspace) -> None:
        forward, key_length = self.forward, self.shape.key_length
        rows = read_rows(
            forward.logits, forward.weighing, forward.statistics, unit, key_length, workspace
        )
        if rows is None:
            return
        index, heads = (unit.batch, unit.heads, unit.queries), (unit.batch, unit.kv_heads)
        sound = (forward.statistics.overflowed[index] == 0).unsqueeze(-1)
        # Rows with an overflowed logit are in no figure, and in no gradient.
        own = torch.where(sound, rows.weights, 0.0)
        upstream = torch.where(sound, self.upstream[index], 0.0)
        value, stacked = forward.value[heads], self._stack(upstream, unit)
        self.found.value[heads] += torch.bmm(self._stack(own, unit).transpose(1, 2), stacked)
        on_weights = torch.bmm(stacked, value.transpose(1, 2)).view(own.shape)
        on_weights = torch.where(rows.seen, on_weights, 0.0)
        slope = self._slope(unit, rows.seen, workspace)
        on_scores = forward.weighing.backward(own, on_weights, rows.null) * slope
        gradients = forward.scorer.backward(unit, on_scores)
        self.found.query[index] = gradients.query
        self.found.key[heads] += gradients.key
        if gradients.vector is not None:
            place = (unit.batch, unit.kv_heads.start)
            before = self.vectors.get(place)
            self.vectors[place] = gradients.vector if before is None else before + gradients.vector
        if self.found.closed is not None:
            self.found.closed[index] = self._closed(unit, own, stacked, slope)
        if self.found.uniform is not None:
            seen = rows.seen.to(upstream.dtype)
            equal = seen / seen.sum(-1, keepdim=True).clamp(min=1)
            mean = (equal * on_weights).sum(-1, keepdim=True)
            flat = forward.scorer.backward(unit, equal * (on_weights - mean) * slope)
            self.found.uniform[index] = flat.query

    def _closed(
        self, unit: Unit, weights: Tensor, stacked: Tensor, slope: Tensor | float
    ) -> Tensor:
        """Slope · Cov_p(V, K)ᵀ g in float64, whatever the way of the scorer's own gradient."""
        heads = (unit.batch, unit.kv_heads)
        value, key = self.forward.value[heads].double(), self.forward.key[heads].double()
        on_weights = torch.bmm(stacked.double(), value.transpose(1, 2)).view(weights.shape)
        apart, _ = from_preferred(weights, on_weights)
        mean = (weights.double() * apart).sum(-1, keepdim=True)
        covariance = self._stack(weights.double() * (apart - mean) * slope, unit)
        closed = torch.bmm(covariance, key)
        return closed.view(*weights.shape[:2], key.shape[-1]).to(weights.dtype)

    def _stack(self, tensor: Tensor, unit: Unit) -> Tensor:
        """(heads, queries, …) to (kv_heads, group · queries, …)."""
        return tensor.reshape(extent(unit.kv_heads), -1, tensor.shape[-1])

    def _slope(self, unit: Unit, seen: Tensor, workspace: Workspace) -> Tensor | float:
        """The derivative of a logit by its score: scale, and 1 − tanh² where softcapped."""
        logits, keys = self.forward.logits, slice(0, self.shape.key_length)
        scale = 1.0 if logits.scale is None else at(logits.scale, unit)
        if logits.softcap is None:
            return scale
        scores = workspace.view(1, unit, keys)
        logits.scorer.unit(unit)(keys, scores)
        inner = scores * (scale / at(logits.softcap, unit))
        slope = scale * (1 - inner.tanh_().square_())
        return torch.where(seen, slope, 0.0)

    def total_vector(self) -> Tensor | None:
        """The scorer's own gradient, over all units in a fixed order."""
        parts = [self.vectors[place] for place in sorted(self.vectors)]
        return torch.stack(parts).sum(0) if parts else None
