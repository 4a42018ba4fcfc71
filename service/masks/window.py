"""A sliding window around the query's own position."""

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from service.attention.blocks import Unit
from service.attention.pattern import Pattern
from service.masks.base import Description, Mask, Setting, positions


@dataclass(frozen=True, slots=True)
class Window(Mask):
    """Allows key j for query i when i + offset − left ≤ j ≤ i + offset + right."""

    description: ClassVar[Description] = Description(
        name="window",
        meaning="A query sees `left` keys before and `right` keys after its own position.",
        formula="i + offset - left <= j <= i + offset + right",
        source="ONNX Attention, opset 25, left_window_size and right_window_size",
    )

    offsets: tuple[int, ...]
    left: int | None
    right: int | None
    device: torch.device

    @classmethod
    def resolve(cls, setting: Setting) -> Self | None:
        """The window, where it bounds at least one side."""
        window = setting.request.window
        if window is None or (window.left is None and window.right is None):
            return None
        return cls(setting.offsets, window.left, window.right, setting.device)

    def visible(self, unit: Unit, keys: slice) -> bool | Tensor:
        """Compared only where an edge of the window crosses the block."""
        offset = self.offsets[unit.batch]
        first, last = unit.queries.start + offset, unit.queries.stop - 1 + offset
        left, right = self.left, self.right
        outside_left = left is not None and keys.stop - 1 < first - left
        outside_right = right is not None and keys.start > last + right
        if outside_left or outside_right:
            return False
        inside_left = left is None or keys.start >= last - left
        inside_right = right is None or keys.stop - 1 <= first + right
        if inside_left and inside_right:
            return True
        own = (positions(unit.queries, self.device) + offset).unsqueeze(-1)
        distance = positions(keys, self.device) - own
        seen = torch.ones_like(distance, dtype=torch.bool)
        if left is not None:
            seen &= distance >= -left
        if right is not None:
            seen &= distance <= right
        return seen.unsqueeze(0)

    def pattern(self) -> Pattern:
        """Around the query's own position."""
        left, right = self.left, self.right
        return Pattern(
            lower=None if left is None else tuple(o - left for o in self.offsets),
            upper=None if right is None else tuple(o + right for o in self.offsets),
        )
