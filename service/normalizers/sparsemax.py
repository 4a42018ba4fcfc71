"""The Euclidean projection onto the simplex: most weights are exactly 0."""

from torch import Tensor

from service.normalizers.base import WHOLE_ROWS, Description, DirectNormalizer
from service.normalizers.threshold import below_largest, threshold


class Sparsemax(DirectNormalizer):
    """p = max(s − τ, 0) with Σ p = 1."""

    description = Description(
        name="sparsemax",
        meaning="The point of the simplex nearest to the logits: keys more than 1 below the "
        "largest get exactly 0, the others a weight linear in their logit.",
        formula="p_j = max(s_j - τ, 0), τ such that Σ p = 1",
        source="Martins and Astudillo 2016, arXiv 1602.02068",
        memory=WHOLE_ROWS,
        flops_a_logit=150,
    )
    whole_rows = True

    def weigh(self, logits: Tensor, visible: Tensor | None) -> Tensor:
        """With τ by Newton's method."""
        gaps, seen = below_largest(logits, visible)
        return (gaps - threshold(gaps, 1)).clamp(min=0) * seen

    def backward(self, weights: Tensor, upstream: Tensor, null: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """G less its mean over the support, on the support (equation 14)."""
        support = (weights > 0).to(upstream.dtype)
        mean = (support * upstream).sum(-1, keepdim=True) / support.sum(-1, keepdim=True).clamp(
            min=1
        )
        return support * (upstream - mean)
