"""Padding: keys at or past a batch item's length are forbidden."""

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from service.attention.blocks import Unit
from service.attention.pattern import Pattern
from service.masks.base import Description, Mask, Setting, positions


@dataclass(frozen=True, slots=True)
class KeyLengths(Mask):
    """Allows key j of batch item b when j < key_lengths[b]."""

    description: ClassVar[Description] = Description(
        name="key_lengths",
        meaning="The number of real keys of each batch item; the rest is padding.",
        formula="j < key_lengths[b]",
        source="ONNX Attention, opset 24, nonpad_kv_seqlen",
    )

    lengths: tuple[int, ...]
    device: torch.device

    @classmethod
    def resolve(cls, setting: Setting) -> Self | None:
        """The padding mask, where lengths are given."""
        if setting.key_lengths is None:
            return None
        return cls(setting.key_lengths, setting.device)

    def visible(self, unit: Unit, keys: slice) -> bool | Tensor:
        """Compared only where the length falls into the block."""
        length = self.lengths[unit.batch]
        if keys.stop <= length:
            return True
        if keys.start >= length:
            return False
        return (positions(keys, self.device) < length)[None, None]

    def pattern(self) -> Pattern:
        """Up to each item's length."""
        return Pattern(ends=self.lengths)
