"""The Euclidean projection onto the simplex: most weights are exactly 0."""

import torch
from torch import Tensor

from service.normalizers.base import WHOLE_ROWS, Description, DirectNormalizer, hidden_below


class Sparsemax(DirectNormalizer):
    """p = max(s − τ, 0) with Σ p = 1."""

    description = Description(
        name="sparsemax",
        meaning="The point of the simplex nearest to the logits: keys more than 1 below the "
        "largest get exactly 0, the others a weight linear in their logit.",
        formula="p_j = max(s_j - τ, 0), τ such that Σ p = 1",
        source="Martins and Astudillo 2016, arXiv 1602.02068, algorithm 1",
        memory=WHOLE_ROWS,
        # Measured: a sort in float64 costs as much as a hundred sweeps.
        flops_a_logit=300,
    )
    whole_rows = True

    def weigh(self, logits: Tensor, visible: Tensor | None) -> Tensor:
        """By sorting, in float64: the k largest are in the support while 1 + k·s_(k) > Σ_{≤k} s."""
        wide = hidden_below(logits, visible)
        gaps, seen = _below_largest(wide)
        ordered = gaps.sort(-1, descending=True).values
        rank = torch.arange(1, ordered.shape[-1] + 1, dtype=wide.dtype, device=wide.device)
        finite = ordered.clamp(min=-2.0)
        sums = finite.cumsum(-1)
        support = (1 + rank * finite > sums).sum(-1, keepdim=True).clamp(min=1)
        threshold = (sums.gather(-1, support - 1) - 1) / support
        return ((gaps - threshold).clamp(min=0) * seen).to(logits.dtype)

    def backward(self, weights: Tensor, upstream: Tensor) -> Tensor:
        """G less its mean over the support, on the support (equation 14)."""
        support = (weights > 0).to(upstream.dtype)
        mean = (support * upstream).sum(-1, keepdim=True) / support.sum(-1, keepdim=True).clamp(
            min=1
        )
        return support * (upstream - mean)


def _below_largest(wide: Tensor) -> tuple[Tensor, Tensor]:
    """Logits less their row's largest, and 1 for rows that see a key; else 0."""
    largest = wide.amax(-1, keepdim=True)
    seen = largest != float("-inf")
    return wide - torch.where(seen, largest, 0.0), seen.to(wide.dtype)
