"""How far weights and outputs move when the logits do."""

from collections.abc import Iterable

import torch
from torch import Tensor

from service.attention.blocks import Unit, cut, extent, unit_logits
from service.attention.logits import Logits, Workspace
from service.attention.normalizing import Weighing
from service.attention.statistics import RowStatistics
from service.attention.streaming import Checkpoint
from service.attention.whole_rows import read_rows, weigh_rows
from service.attention.workers import Workers
from service.shape import Shape

FIGURES = (
    "perturbation_l1",
    "perturbation_l1_bound",
    "perturbation_l2",
    "perturbation_l2_bound",
    "perturbation_output",
)


def move(
    logits: Logits,
    moved: Logits,
    value: Tensor,
    statistics: RowStatistics,
    weighing: Weighing,
    *,
    shape: Shape,
    workers: Workers,
    checkpoint: Checkpoint,
) -> dict[str, Tensor]:
    """Figures per row (batch, heads, N) in float64, NaN without a visible key.

    ‖Δp‖₁ beside ‖Δs‖∞, ‖Δp‖₂ beside ½‖Δs‖₂, which bound them for softmax (its Jacobian's norms are
    at most 1 from ∞ to 1, and 1/2 from 2 to 2), and ‖Δo‖₂ / ‖o‖₂.
    """
    job = _Move(logits, moved, value, statistics, weighing, shape, checkpoint)
    workers.run(cut(shape, key_block=shape.key_length), job.work)
    return dict(zip(FIGURES, job.figures, strict=True))


class _Move:
    def __init__(
        self,
        logits: Logits,
        moved: Logits,
        value: Tensor,
        statistics: RowStatistics,
        weighing: Weighing,
        shape: Shape,
        checkpoint: Checkpoint,
    ) -> None:
        self.logits, self.moved, self.value = logits, moved, value
        self.statistics, self.weighing = statistics, weighing
        self.shape, self.checkpoint = shape, checkpoint
        rows = (len(FIGURES), shape.batch, shape.heads, shape.query_length)
        wide = torch.float64
        self.figures = torch.full(rows, float("nan"), dtype=wide, device=value.device)

    @torch.inference_mode()
    def work(self, units: Iterable[Unit]) -> None:
        """Compute the units that this thread is handed."""
        size = unit_logits(self.shape, key_block=self.shape.key_length)
        workspace = Workspace(size, self.value.dtype, self.value.device)
        for unit in units:
            self.checkpoint()
            self._unit(unit, workspace)

    def _unit(self, unit: Unit, workspace: Workspace) -> None:
        keys = slice(0, self.shape.key_length)
        before = read_rows(self.logits, self.weighing, self.statistics, unit, keys.stop, workspace)
        if before is None:
            return
        logits = workspace.view(1, unit, keys)
        self.moved.scorer.unit(unit)(keys, logits)
        self.moved.shape_scores(logits, unit, keys)
        weights = weigh_rows(logits, before.seen, self.weighing)
        change = torch.where(before.seen, logits.double() - before.logits.double(), 0.0)
        # Both sides are weighed alike: weights from the row's statistics round differently.
        plain = weigh_rows(before.logits, before.seen, self.weighing)
        figures = [*_distances(weights.double() - plain.double(), change)]
        figures.append(self._output_change(plain, weights, unit))
        index = (unit.batch, unit.heads, unit.queries)
        valid = before.seen.any(-1) & (self.statistics.overflowed[index] == 0)
        valid &= torch.isfinite(change).all(-1)
        found = torch.where(valid, torch.stack(figures), float("nan"))
        self.figures[:, *index] = found

    def _output_change(self, before: Tensor, weights: Tensor, unit: Unit) -> Tensor:
        value = self.value[unit.batch, unit.kv_heads]
        shape = (extent(unit.kv_heads), -1, weights.shape[-1])
        plain = torch.bmm(before.reshape(shape), value).double()
        moved = torch.bmm((weights - before).reshape(shape), value).double()
        change: Tensor = moved.square().sum(-1).sqrt() / plain.square().sum(-1).sqrt()
        return change.view(weights.shape[:-1])


def _distances(weights: Tensor, logits: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """‖Δp‖₁, ‖Δs‖∞, ‖Δp‖₂, ½‖Δs‖₂."""
    norm = torch.linalg.vector_norm
    return (
        norm(weights, ord=1, dim=-1),
        logits.abs().amax(-1),
        norm(weights, dim=-1),
        norm(logits, dim=-1) / 2,
    )
