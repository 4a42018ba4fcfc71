"""Between softmax and sparsemax: sparse, and smooth on its support."""

import torch
from torch import Tensor

from service.normalizers.base import WHOLE_ROWS, Description, DirectNormalizer, hidden_below


class Entmax15(DirectNormalizer):
    """p = max(s/2 − τ, 0)² with Σ p = 1."""

    description = Description(
        name="entmax15",
        meaning="Entmax with α = 1.5: keys more than 2 below the largest get exactly 0, the others "
        "a weight that grows with the square.",
        formula="p_j = max(s_j / 2 - τ, 0)^2, τ such that Σ p = 1",
        source="Peters, Niculae and Martins 2019, arXiv 1905.05702, algorithm 2",
        memory=WHOLE_ROWS,
        # Measured: a sort in float64 costs as much as a hundred sweeps.
        flops_a_logit=300,
    )
    whole_rows = True

    def weigh(self, logits: Tensor, visible: Tensor | None) -> Tensor:
        """By sorting, in float64: τ(k) = mean − sqrt((1 − k·variance)/k) of the k largest."""
        wide = hidden_below(logits, visible)
        largest = wide.amax(-1, keepdim=True)
        seen = largest != float("-inf")
        halves = (wide - torch.where(seen, largest, 0.0)) / 2
        ordered = halves.sort(-1, descending=True).values.clamp(min=-2.0)
        rank = torch.arange(1, ordered.shape[-1] + 1, dtype=wide.dtype, device=wide.device)
        mean = ordered.cumsum(-1) / rank
        spread = ordered.square().cumsum(-1) - rank * mean.square()
        threshold = mean - ((1 - spread).clamp(min=0) / rank).sqrt()
        support = (threshold <= ordered).sum(-1, keepdim=True).clamp(min=1)
        weights = (halves - threshold.gather(-1, support - 1)).clamp(min=0).square()
        return torch.where(seen, weights, 0.0).to(logits.dtype)

    def backward(self, weights: Tensor, upstream: Tensor) -> Tensor:
        """√p ∘ (g − Σ √p g / Σ √p) (section 3.2, proposition 2)."""
        roots = weights.sqrt()
        total = roots.sum(-1, keepdim=True)
        mean = (roots * upstream).sum(-1, keepdim=True) / total.clamp(min=1e-30)
        return roots * (upstream - mean)
