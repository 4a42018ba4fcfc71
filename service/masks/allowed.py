"""A boolean mask: True = may attend."""

from dataclasses import dataclass
from typing import ClassVar, Self

from torch import Tensor

from service.attention.blocks import Unit, extent
from service.attention.pattern import Pattern
from service.masks.base import Description, Mask, Setting, Spread, pad


@dataclass(frozen=True, slots=True)
class Allowed(Mask):
    """Allows the pairs that are True."""

    description: ClassVar[Description] = Description(
        name="allowed",
        meaning="Any pattern of pairs; True = may attend, as in F.scaled_dot_product_attention. A "
        "0/1 number is never taken for a boolean.",
        formula="allowed[b, h, i, j]",
        source="ONNX Attention, opset 23, attn_mask (boolean)",
    )

    spread: Spread

    @classmethod
    def resolve(cls, setting: Setting) -> Self | None:
        """The boolean mask, where one is given."""
        if setting.request.allowed is None:
            return None
        tensor = setting.request.allowed.to(setting.device)
        return cls(Spread(tensor, setting.shape, "allowed"))

    def visible(self, unit: Unit, keys: slice) -> bool | Tensor:
        """The part over the block; padding is forbidden."""
        block = self.spread.block(unit, keys)
        if block is None:
            return False
        return pad(block, extent(keys), 0.0) if self.spread.padded else block

    def pattern(self) -> Pattern:
        """The tensor as it is."""
        return Pattern(allowed=self.spread.laid)
