"""Logits or weights that a framework already computed, in place of scores."""

from dataclasses import dataclass

import torch
from torch import Tensor

from service.attention.blocks import Unit
from service.attention.logits import ScoreKeys


@dataclass(frozen=True, slots=True)
class GivenLogits:
    """The logits as they are; where they are −∞ the key is hidden and 0 stands in."""

    given: Tensor

    @property
    def products(self) -> None:
        """None: there are no scores."""

    @property
    def figures(self) -> tuple[str, ...]:
        """Nothing but the scores."""
        return ()

    def unit(self, unit: Unit, *, figures: bool = False) -> ScoreKeys:
        """Copy a block of the given logits (batch, heads, N, M)."""
        part = self.given[unit.batch, unit.heads, unit.queries]

        def score(keys: slice, out: Tensor) -> None:
            out.copy_(part[..., keys])
            out.masked_fill_(out == float("-inf"), 0.0)

        return score

    def visible(self, unit: Unit, keys: slice) -> Tensor:
        """Keys whose logit is not −∞."""
        return self.given[unit.batch, unit.heads, unit.queries, keys] != float("-inf")

    def bias(self, unit: Unit, keys: slice) -> None:
        """Nothing is added."""

    def pattern(self) -> None:
        """None: it is asked block by block."""


@dataclass(frozen=True, slots=True)
class GivenWeights:
    """ln p: softmax of it gives p / Σp back. Zero weights are hidden from the sums.

    Where they are not hidden, they stand at the lowest finite logit, whose weight is 0 again.
    """

    given: Tensor

    @property
    def products(self) -> None:
        """None: there are no scores."""

    @property
    def figures(self) -> tuple[str, ...]:
        """Nothing but the scores."""
        return ()

    def unit(self, unit: Unit, *, figures: bool = False) -> ScoreKeys:
        """Logarithms of a block of the given weights (batch, heads, N, M)."""
        part = self.given[unit.batch, unit.heads, unit.queries]

        def score(keys: slice, out: Tensor) -> None:
            torch.log(part[..., keys], out=out).clamp_(min=torch.finfo(out.dtype).min)

        return score

    def visible(self, unit: Unit, keys: slice) -> Tensor:
        """Keys with a weight above 0."""
        return self.given[unit.batch, unit.heads, unit.queries, keys] > 0

    def bias(self, unit: Unit, keys: slice) -> None:
        """Nothing is added."""

    def pattern(self) -> None:
        """None: it is asked block by block."""
