"""Softmax with one more term in the denominator: a row may attend to nothing."""

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

    def log_partition(self, log_sum_exp: Tensor) -> Tensor:
        """Ln(1 + Σ exp(s)).

        Not by `logaddexp`: in float64 it rounds differently with the place in a batch (measured).
        """
        return log_sum_exp.clamp(min=0) + log_sum_exp.abs().neg().exp().log1p()

    def divisor(self, total: Tensor, maximum: Tensor) -> Tensor:
        """Σ exp(s − m) + exp(−m)."""
        return total + maximum.double().neg().exp()
