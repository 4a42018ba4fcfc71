"""Between softmax and sparsemax: sparse, and smooth on its support."""

from torch import Tensor

from service.attention.normalizing import from_preferred
from service.normalizers.base import WHOLE_ROWS, Description, DirectNormalizer
from service.normalizers.threshold import below_largest, threshold


class Entmax15(DirectNormalizer):
    """p = max(s/2 − τ, 0)² with Σ p = 1."""

    description = Description(
        name="entmax15",
        meaning="Entmax with α = 1.5: keys more than 2 below the largest get exactly 0, the others "
        "a weight that grows with the square.",
        formula="p_j = max(s_j / 2 - τ, 0)^2, τ such that Σ p = 1",
        source="Peters, Niculae and Martins 2019, arXiv 1905.05702",
        memory=WHOLE_ROWS,
        flops_a_logit=150,
    )
    whole_rows = True

    def weigh(self, logits: Tensor, visible: Tensor | None) -> Tensor:
        """With τ by Newton's method."""
        gaps, seen = below_largest(logits, visible)
        halves = gaps / 2
        return (halves - threshold(halves, 2)).clamp(min=0).square() * seen

    def backward(self, weights: Tensor, upstream: Tensor, null: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """√p ∘ (g − Σ √p g / Σ √p) (section 3.2, proposition 2)."""
        roots = weights.sqrt()
        total = roots.sum(-1, keepdim=True)
        apart, _ = from_preferred(weights, upstream)
        mean = (roots * apart).sum(-1, keepdim=True) / total.clamp(min=1e-30)
        return roots * (apart - mean)
