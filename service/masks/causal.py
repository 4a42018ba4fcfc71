"""No query sees the future: j ≤ i + offset."""

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from service.attention.blocks import Unit
from service.attention.pattern import Pattern
from service.masks.base import Description, Mask, Setting, positions


@dataclass(frozen=True, slots=True)
class Causal(Mask):
    """Allows key j for query i when j ≤ i + offset."""

    description: ClassVar[Description] = Description(
        name="causal",
        meaning="A query sees its own position and those before it. upper_left: query 0 stands at "
        "key 0; lower_right: the last query stands at the last key, with key_lengths at its item's "
        "last real key; an offset places it anywhere.",
        formula="j <= i + offset",
        source="ONNX Attention, opset 23, is_causal",
    )

    offsets: tuple[int, ...]
    device: torch.device

    @classmethod
    def resolve(cls, setting: Setting) -> Self | None:
        """The causal mask, where one is asked for."""
        if setting.request.causal == "none":
            return None
        return cls(setting.offsets, setting.device)

    def visible(self, unit: Unit, keys: slice) -> bool | Tensor:
        """All keys up to the block's first query, none past its last, else compared."""
        offset = self.offsets[unit.batch]
        if keys.stop - 1 <= unit.queries.start + offset:
            return True
        if keys.start > unit.queries.stop - 1 + offset:
            return False
        own = positions(unit.queries, self.device) + offset
        return (positions(keys, self.device) <= own.unsqueeze(-1)).unsqueeze(0)

    def pattern(self) -> Pattern:
        """Up to the query's own position."""
        return Pattern(upper=self.offsets)
