"""How far weights and outputs move when the logits do."""

from collections.abc import Iterable

import torch
from torch import Tensor

from service.attention.blocks import Unit, cut, extent, unit_logits
from service.attention.logits import Logits, Workspace
from service.attention.normalizing import Direct, Exponential, Weighing
from service.attention.statistics import RowStatistics
from service.attention.whole_rows import score_rows, weigh_rows
from service.attention.workers import Checkpoint, Workers
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
        key_length = self.shape.key_length
        before = score_rows(self.logits, unit, key_length, workspace)
        after = score_rows(self.moved, unit, key_length, workspace, buffer=1)
        if before is None or after is None:
            return
        (logits, seen), (moved_logits, _) = before, after
        change = torch.where(seen, moved_logits.double() - logits.double(), 0.0)
        plain = weigh_rows(logits.double(), seen, self.weighing)
        if isinstance(self.weighing, Direct):
            moved = self.weighing.weigh(moved_logits, seen) - plain
        else:
            moved = _moved(plain, change, self._null(self.weighing, unit))
        figures = [*_distances(moved, change), self._output_change(plain, moved, unit)]
        index = (unit.batch, unit.heads, unit.queries)
        valid = seen.any(-1) & (self.statistics.overflowed[index] == 0)
        valid &= torch.isfinite(change).all(-1)
        found = torch.where(valid, torch.stack(figures), float("nan"))
        self.figures[:, *index] = found

    def _null(self, weighing: Exponential, unit: Unit) -> Tensor | None:
        index = (unit.batch, unit.heads, unit.queries)
        total, maximum = 1 + self.statistics.tail[index], self.statistics.maximum[index]
        return weighing.null_mass(total.unsqueeze(-1), maximum.unsqueeze(-1))

    def _output_change(self, plain: Tensor, moved: Tensor, unit: Unit) -> Tensor:
        value = self.value[unit.batch, unit.kv_heads].double()
        shape = (extent(unit.kv_heads), -1, plain.shape[-1])
        output = torch.bmm(plain.reshape(shape), value)
        change = torch.bmm(moved.reshape(shape), value)
        norm: Tensor = change.square().sum(-1).sqrt() / output.square().sum(-1).sqrt()
        return norm.view(plain.shape[:-1])


def _moved(weights: Tensor, change: Tensor, null: Tensor | None) -> Tensor:
    """Δp of exp(s)/divisor when s changes by δ, without a difference of weights near 1.

    With a the preferred key, δ' = δ − δ_a and Λ = ln(1 + Σ_{j≠a} p_j (e^δ'_j − 1)):
    Δp_j = p_j (exp(δ'_j − Λ) − 1) for j ≠ a, and Δp_a is what the others lose.
    """
    at = weights.argmax(-1, keepdim=True)
    own = change.gather(-1, at)
    apart = (change - own).clamp(-700, 700)
    others = weights.scatter(-1, at, 0.0)
    share = (others * apart.expm1()).sum(-1, keepdim=True)
    lost = torch.zeros_like(own)
    if null is not None:
        share = share + null * (-own).clamp(-700, 700).expm1()
    total = share.log1p()
    moved = others * (apart - total).expm1()
    if null is not None:
        lost = null * (-own - total).expm1()
    return moved.scatter(-1, at, -(moved.sum(-1, keepdim=True) + lost))


def _distances(weights: Tensor, logits: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """‖Δp‖₁, ‖Δs‖∞, ‖Δp‖₂, ½‖Δs‖₂."""
    norm = torch.linalg.vector_norm
    return (
        norm(weights, ord=1, dim=-1),
        logits.abs().amax(-1),
        norm(weights, dim=-1),
        norm(logits, dim=-1) / 2,
    )
