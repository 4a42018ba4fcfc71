"""How the pass is told to turn logits into weights: what a normaliser has to offer it."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor


class Exponential(ABC):
    """Weights exp(s) over a divisor of the row, which the pass streams with a running maximum.

    The divisor is Σ exp(s) + `null_weight`.
    """

    null_weight: ClassVar[float] = 0.0

    @abstractmethod
    def divisor(self, total: Tensor, maximum: Tensor) -> Tensor:
        """The row's divisor of exp(s − maximum), where `total` is Σ exp(s − maximum)."""

    @abstractmethod
    def log_partition(self, log_sum_exp: Tensor) -> Tensor:
        """The logarithm of the divisor of exp(s), from that of Σ exp(s)."""

    @abstractmethod
    def null_mass(self, total: Tensor, maximum: Tensor) -> Tensor | None:
        """What a constant in the divisor takes of the row's sum; None without one."""

    @abstractmethod
    def backward(self, weights: Tensor, upstream: Tensor, null: Tensor | None = None) -> Tensor:
        """Gradient on the logits from that on the weights, both (heads, queries, keys)."""


class Direct(ABC):
    """Weights made from the logits themselves; `whole_rows` where that takes all keys at once."""

    whole_rows: ClassVar[bool]

    @abstractmethod
    def weigh(self, logits: Tensor, visible: Tensor | None) -> Tensor:
        """Weights (heads, queries, keys) in float64, 0 where hidden; the logits are left alone."""

    @abstractmethod
    def backward(self, weights: Tensor, upstream: Tensor, null: Tensor | None = None) -> Tensor:
        """Gradient on the logits from that on the weights, both (heads, queries, keys)."""


def from_preferred(weights: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient on the weights less that on each row's largest weight, and the latter.

    What all weights of a row share moves nothing; taken away first, a nearly one-hot row keeps its
    digits (otherwise 5 % are lost in float32 at a gap of 15, and all from 17; measured).
    """
    own = upstream.gather(-1, weights.argmax(-1, keepdim=True))
    return upstream - own, own


Weighing = Exponential | Direct

WEIGHT_SUMS = 6
"""Rows of `weight_sums`: Σ w, Σ w², −Σ w ln w, the largest w, how many are above 0, and how many of
these flush to 0 in the compute dtype."""
LARGEST = 3
FLUSHED = 5


def weight_sums(weights: Tensor, dtype: torch.dtype) -> Tensor:
    """Sums of direct weights (heads, queries, keys) in float64 over the keys: (6, heads, queries).

    They are applied in `dtype`.
    """
    entropies = torch.special.entr(weights).sum(-1)
    above = weights > 0
    flushed = (above & (weights < torch.finfo(dtype).tiny)).sum(-1).double()
    support, largest = above.sum(-1).double(), weights.amax(-1)
    sums = [weights.sum(-1), weights.square().sum(-1), entropies, largest, support, flushed]
    return torch.stack(sums)


def add_weight_sums(total: Tensor, part: Tensor) -> Tensor:
    """The sums over the union of two ranges of keys."""
    added = total + part
    added[LARGEST] = torch.maximum(total[LARGEST], part[LARGEST])
    return added
