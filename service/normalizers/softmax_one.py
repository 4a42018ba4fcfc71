"""Softmax with one more term in the denominator: a row may attend to nothing."""

import torch
from torch import Tensor

from service.normalizers.base import STREAMED, Description, ExponentialNormalizer


class SoftmaxOne(ExponentialNormalizer):
    """p = exp(s) / (1 + Σ exp(s))."""

    description = Description(
        name="softmax_one",
        meaning="Softmax beside a null key of logit 0 and value 0, so that a head with nothing to "
        "say need not put its weight on a sink; the null key's share is null_mass.",
        formula="p_j = exp(s_j) / (1 + Σ_k exp(s_k)) over the visible keys",
        source="Miller 2023, Attention Is Off By One; Xiao et al. 2023, arXiv 2309.17453",
        memory=STREAMED,
    )

    null_weight = 1.0

    def log_partition(self, log_sum_exp: Tensor) -> Tensor:
        """Ln(1 + Σ exp(s)).

        Not by `logaddexp`: in float64 it rounds differently with the place in a batch (measured).
        """
        return log_sum_exp.clamp(min=0) + log_sum_exp.abs().neg().exp().log1p()

    def null_mass(self, total: Tensor, maximum: Tensor) -> Tensor:
        """exp(−m) over the divisor."""
        return torch.sigmoid(-(maximum.double() + total.log()))

    def divisor(self, total: Tensor, maximum: Tensor) -> Tensor:
        """Σ exp(s − m) + exp(−m)."""
        return total + maximum.double().neg().exp()

    def backward(self, weights: Tensor, upstream: Tensor, null: Tensor | None = None) -> Tensor:
        """With the null key's share as it is known, or as what the weights leave."""
        if null is None:
            null = 1 - weights.sum(-1, keepdim=True)
        return super().backward(weights, upstream, null)
