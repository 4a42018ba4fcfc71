"""A float added to the logits; −∞ forbids."""

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from service.attention.blocks import Unit, extent
from service.attention.pattern import Pattern
from service.errors import NonFinite
from service.masks.base import Description, Mask, Setting, Spread, pad

NEAR_FORBIDDEN = -1e4


@dataclass(frozen=True, slots=True)
class Bias(Mask):
    """Adds the finite entries and forbids those that are −∞."""

    description: ClassVar[Description] = Description(
        name="bias",
        meaning="Added to the logits after the softcap (ALiBi, relative positions, additive "
        "masks); minus infinity forbids. Finite entries at or below -1e4 are computed as given "
        "and counted in numerics.near_forbidden; mask.forbid_below turns them into minus infinity.",
        formula="s[b, h, i, j] + bias[b, h, i, j]",
        source="ONNX Attention, opset 23, attn_mask (float)",
    )

    spread: Spread
    near: int
    forbids: bool

    @classmethod
    def resolve(cls, setting: Setting) -> Self | None:
        """The bias, where one is given; NaN and +∞ are always refused."""
        if setting.request.bias is None:
            return None
        given = setting.request.bias
        low = _lowest(given)
        if setting.request.forbid_below is not None:
            below = given < setting.request.forbid_below
            given = torch.where(below, float("-inf"), given)
            low = _lowest(given)
        tensor = _narrowed(given, setting.dtype).to(setting.device)
        spread = Spread(tensor, setting.shape, "bias")
        hidden = near = 0
        if low <= NEAR_FORBIDDEN:
            hidden = int((tensor == float("-inf")).sum())
            near = int((tensor <= NEAR_FORBIDDEN).sum()) - hidden
        return cls(spread, near, hidden > 0 or spread.padded)

    @property
    def near_forbidden(self) -> int:
        """Finite entries at or below -1e4."""
        return self.near

    def visible(self, unit: Unit, keys: slice) -> bool | Tensor:
        """Where the bias is not −∞; padding is forbidden."""
        if not self.forbids:
            return True
        block = self.spread.block(unit, keys)
        if block is None:
            return False
        return self._padded(block, keys) != float("-inf")

    def bias(self, unit: Unit, keys: slice) -> Tensor | None:
        """The bias over the block, with 0 where it forbids."""
        block = self.spread.block(unit, keys)
        if block is None or not self.forbids:
            return block
        padded = self._padded(block, keys)
        return torch.where(padded == float("-inf"), 0.0, padded)

    def pattern(self) -> Pattern:
        """The tensor as it is: where it is −∞ it forbids."""
        return Pattern(bias=self.spread.laid)

    def _padded(self, block: Tensor, keys: slice) -> Tensor:
        return pad(block, extent(keys), float("-inf")) if self.spread.padded else block


def _narrowed(given: Tensor, dtype: torch.dtype) -> Tensor:
    """Finite entries stay finite: float64's finfo.min is a mask that users send with float32."""
    bounds = torch.finfo(dtype)
    if bounds.max >= torch.finfo(given.dtype).max:
        return given.to(dtype)
    clamped = given.clamp(bounds.min, bounds.max)
    return torch.where(torch.isinf(given), given, clamped).to(dtype)


def _lowest(tensor: Tensor) -> float:
    """The least entry, of a tensor without NaN and +∞; 0 where it has none."""
    if tensor.numel() == 0:
        return 0.0
    # One look where all is well: NaN is the maximum of whatever holds one.
    low, high = (float(bound) for bound in torch.aminmax(tensor))
    if not high < float("inf"):
        bad = torch.isnan(tensor) | (tensor == float("inf"))
        first = [int(i) for i in bad.nonzero()[0]]
        raise NonFinite(
            f"mask.bias holds {int(bad.sum()):,} NaN or +∞ values, the first at {first}; expected "
            "finite numbers or −∞ (null in JSON)",
            pointer="/mask/bias",
        )
    return low
