"""Each key on its own: no row, no competition."""

import torch
from torch import Tensor

from service.normalizers.base import STREAMED, Description, DirectNormalizer


class Sigmoid(DirectNormalizer):
    """p = σ(s)."""

    description = Description(
        name="sigmoid",
        meaning="Every key gets a weight of its own in (0, 1); rows sum to anything up to n. "
        "Nothing is shifted: a bias of -ln n starts rows near a sum of 1.",
        formula="p_j = 1 / (1 + exp(-s_j))",
        source="Ramapuram et al. 2024, arXiv 2409.04431",
        memory=STREAMED,
        flops_a_logit=60,
    )
    whole_rows = False

    def weigh(self, logits: Tensor, visible: Tensor | None) -> Tensor:
        """σ(s) of the visible keys."""
        weights = torch.sigmoid(logits.double())
        return weights if visible is None else torch.where(visible, weights, 0.0)

    def backward(self, weights: Tensor, upstream: Tensor, null: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """P (1 − p) g."""
        return weights * (1 - weights) * upstream
