"""The factor on the scores: one number, or one for each row that grows with its visible keys."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from schemas.mechanisms import LogLength
from service.attention.logits import Factor
from service.masks.combined import CombinedMask, count_visible
from service.shape import Shape


@dataclass(frozen=True, slots=True)
class RowScale:
    """`default` × ln n / ln `base`: the factor of each row (batch, heads, N), float64, CPU.

    0 in rows of one key, whose weight is 1 whatever its logit.
    """

    base: float
    default: float
    factors: Tensor

    @property
    def extremes(self) -> tuple[float, float]:
        """The smallest and the largest factor."""
        low, high = self.factors.aminmax()
        return float(low), float(high)


Scale = float | RowScale
"""As a request resolves it."""


def resolve_scale(
    asked: float | LogLength | None, default: float, mask: CombinedMask, shape: Shape
) -> Scale:
    """What a request asks for, the mechanism's default where it says nothing.

    Source of ln n / ln base: Chiang and Cholak 2022 (arXiv 2202.12172), section 5.2.
    """
    if not isinstance(asked, LogLength):
        return default if asked is None else asked
    visible = count_visible(mask, shape).clamp(min=1)
    return RowScale(asked.base, default, visible.log() * (default / math.log(asked.base)))


def factor_of(scale: Scale, dtype: torch.dtype, device: torch.device) -> Factor:
    """The scale as the pass applies it."""
    if isinstance(scale, RowScale):
        return scale.factors.to(device=device, dtype=dtype)
    return scale
