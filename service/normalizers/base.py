"""What a normaliser is: how a row of logits becomes a row of weights, described and dressed."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from service.attention.normalizing import Direct, Exponential, from_preferred


@dataclass(frozen=True, slots=True)
class Description:
    """How the catalogue presents a normaliser.

    `memory` says what of a row it must hold, `flops_a_logit` what the row pass costs with it.
    """

    name: str
    meaning: str
    formula: str
    source: str
    memory: str
    flops_a_logit: int = 20


STREAMED = "streams: nothing of a row's length is held"
WHOLE_ROWS = "holds the rows of a block whole, since a key's weight takes all logits of its row"


class ExponentialNormalizer(Exponential):
    """A member whose weights are exponentials over a divisor."""

    description: ClassVar[Description]

    def log_partition(self, log_sum_exp: Tensor) -> Tensor:
        """The logarithm of the divisor of exp(s)."""
        return log_sum_exp

    def divisor(self, total: Tensor, maximum: Tensor) -> Tensor:  # noqa: ARG002 - for those that shift
        """Σ exp(s − m)."""
        return total

    def null_mass(self, total: Tensor, maximum: Tensor) -> Tensor | None:  # noqa: ARG002
        """None: the row is its own sum."""
        return None

    def backward(self, weights: Tensor, upstream: Tensor, null: Tensor | None = None) -> Tensor:
        """(diag(p) − p pᵀ) g, whether or not the divisor has a constant beside Σ exp."""
        apart, own = from_preferred(weights, upstream)
        mean = (weights * apart).sum(-1, keepdim=True)
        if null is not None:
            mean = mean - null * own
        return weights * (apart - mean)


class DirectNormalizer(Direct):
    """A member whose weights are made from the logits themselves."""

    description: ClassVar[Description]


Normalizer = ExponentialNormalizer | DirectNormalizer


def hidden_below(logits: Tensor, visible: Tensor | None) -> Tensor:
    """Logits in float64, −∞ where hidden."""
    wide = logits.double()
    return wide if visible is None else torch.where(visible, wide, float("-inf"))
