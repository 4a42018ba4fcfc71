"""Masks that need not be asked block by block: ranges of keys, and tensors laid over them."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Laid:
    """A tensor over (batch or 1, head or 1, query or 1, key or 1).

    Keys from `length` on are hidden, unless its last extent is 1, which stands for all keys.
    """

    tensor: Tensor
    length: int


@dataclass(frozen=True, slots=True)
class Pattern:
    """What a mask hides and adds; each tuple has one number for each batch item.

    Key j is visible to query i where j < `ends`, i + `lower` ≤ j ≤ i + `upper`, `allowed` is True
    and `bias`, which is added, is not −∞.
    """

    ends: tuple[int, ...] | None = None
    lower: tuple[int, ...] | None = None
    upper: tuple[int, ...] | None = None
    allowed: Laid | None = None
    bias: Laid | None = None

    def and_also(self, other: "Pattern") -> "Pattern | None":
        """Both; None where they cannot be told in one pattern."""
        if (self.allowed and other.allowed) or (self.bias and other.bias):
            return None
        return Pattern(
            ends=_nearer(self.ends, other.ends, least=True),
            lower=_nearer(self.lower, other.lower, least=False),
            upper=_nearer(self.upper, other.upper, least=True),
            allowed=self.allowed or other.allowed,
            bias=self.bias or other.bias,
        )


def _nearer(
    one: tuple[int, ...] | None, other: tuple[int, ...] | None, *, least: bool
) -> tuple[int, ...] | None:
    if one is None or other is None:
        return other if one is None else one
    return tuple(map(min if least else max, one, other))
