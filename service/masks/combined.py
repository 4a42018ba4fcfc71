"""Masks combine by AND; biases add."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from service.attention.blocks import KEY_BLOCK, Unit, cut, extent, ranges
from service.attention.logits import Visibility
from service.attention.pattern import Pattern
from service.shape import Shape


@dataclass(frozen=True, slots=True)
class CombinedMask:
    """All masks of one request."""

    members: Sequence[Visibility]

    def visible(self, unit: Unit, keys: slice) -> bool | Tensor:
        """Keys that every member allows."""
        seen: bool | Tensor = True
        for member in self.members:
            found = member.visible(unit, keys)
            if found is False:
                return False
            if found is not True:
                seen = found if seen is True else seen & found
        return seen

    def bias(self, unit: Unit, keys: slice) -> Tensor | None:
        """The sum of what the members add."""
        total: Tensor | None = None
        for member in self.members:
            found = member.bias(unit, keys)
            if found is not None:
                total = found if total is None else total + found
        return total

    def pattern(self) -> Pattern | None:
        """All members' in one."""
        whole: Pattern | None = Pattern()
        for member in self.members:
            found = member.pattern()
            whole = None if whole is None or found is None else whole.and_also(found)
        return whole


def count_visible(mask: CombinedMask, shape: Shape) -> Tensor:
    """How many keys each row sees (batch, heads, N), float64 on the CPU."""
    lead = (shape.batch, shape.heads, shape.query_length)
    if not mask.members:
        return torch.full(lead, float(shape.key_length), dtype=torch.float64)
    count = torch.zeros(lead, dtype=torch.float64)
    for unit in cut(shape, key_block=min(KEY_BLOCK, shape.key_length)):
        rows = count[unit.batch, unit.heads, unit.queries]
        for keys in ranges(shape.key_length, KEY_BLOCK):
            seen = mask.visible(unit, keys)
            if isinstance(seen, Tensor):
                rows += seen.expand(*seen.shape[:-1], extent(keys)).sum(-1).cpu()
            elif seen:
                rows += extent(keys)
    return count
