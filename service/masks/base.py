"""What a mask is: which keys of a block its queries may see, and what is added to the logits."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from schemas.masks import Mask as MaskRequest
from service.attention.blocks import Unit
from service.attention.pattern import Laid, Pattern
from service.errors import InvalidMask
from service.shape import Shape


@dataclass(frozen=True, slots=True)
class Description:
    """How the catalogue presents a mask."""

    name: str
    meaning: str
    formula: str
    source: str


@dataclass(frozen=True, slots=True)
class Setting:
    """What every mask is resolved against: the request, the shapes, the offsets, the device."""

    request: MaskRequest
    shape: Shape
    offsets: tuple[int, ...]
    key_lengths: tuple[int, ...] | None
    dtype: torch.dtype
    device: torch.device


class Mask(ABC):
    """One member of the room."""

    __slots__ = ()
    description: ClassVar[Description]

    @classmethod
    @abstractmethod
    def resolve(cls, setting: Setting) -> Self | None:
        """The mask this request asks for, or None."""

    @abstractmethod
    def visible(self, unit: Unit, keys: slice) -> bool | Tensor:
        """True: all keys of the block; False: none; else (heads or 1, queries or 1, keys)."""

    def bias(self, unit: Unit, keys: slice) -> Tensor | None:  # noqa: ARG002 - for those that add
        """What is added to the logits of the block, finite; nothing, for most masks."""
        return None

    @abstractmethod
    def pattern(self) -> Pattern | None:
        """The whole mask at once."""

    @property
    def near_forbidden(self) -> int:
        """Finite entries so low that they were probably meant to forbid."""
        return 0


def positions(part: slice, device: torch.device) -> Tensor:
    """The indices that a slice covers."""
    return torch.arange(part.start, part.stop, device=device)


class Spread:
    """A tensor of rank 2, 3 or 4 laid over (batch, head, query, key), cut block by block.

    A last extent of 2 … M − 1 leaves the keys past it forbidden, as the ONNX Attention operator
    (opset 24) pads; extent 1 broadcasts, where that operator would pad too.
    """

    def __init__(self, tensor: Tensor, shape: Shape, field: str) -> None:
        self.tensor = _rank_four(tensor, shape, field)
        self.length = self.tensor.shape[-1]
        expected = (shape.batch, shape.heads, shape.query_length)
        fits = all(
            found in (1, want) for found, want in zip(self.tensor.shape, expected, strict=False)
        )
        if not fits or not 1 <= self.length <= shape.key_length:
            raise InvalidMask(
                f"mask.{field} must fit (batch {shape.batch} or 1, head {shape.heads} or 1, query "
                f"{shape.query_length} or 1, key 1 … {shape.key_length}); found "
                f"{list(tensor.shape)} read as {list(self.tensor.shape)}",
                pointer=f"/mask/{field}",
            )
        self.padded = 1 < self.length < shape.key_length

    @property
    def laid(self) -> Laid:
        """As a pattern has it."""
        return Laid(self.tensor, self.length)

    def block(self, unit: Unit, keys: slice) -> Tensor | None:
        """The part over a block (heads or 1, queries or 1, keys or 1); None for padding only."""
        batch, head, query, length = self.tensor.shape
        if self.padded and keys.start >= length:
            return None
        return self.tensor[
            unit.batch if batch > 1 else 0,
            unit.heads if head > 1 else slice(None),
            unit.queries if query > 1 else slice(None),
            keys if length > 1 else slice(None),
        ]


def _rank_four(tensor: Tensor, shape: Shape, field: str) -> Tensor:
    if tensor.dim() == 4:
        return tensor
    if tensor.dim() == 3:
        return tensor[None] if shape.query_rank == 4 else tensor[:, None]
    if tensor.dim() == 2:
        return tensor[None, None]
    raise InvalidMask(
        f"mask.{field} must have rank 2 (query, key), 3 or 4 (batch, head, query, key); found rank "
        f"{tensor.dim()}",
        pointer=f"/mask/{field}",
    )


def pad(block: Tensor, width: int, fill: float) -> Tensor:
    """Fill up the last axis of a block that a short tensor leaves open."""
    missing = width - block.shape[-1]
    if missing <= 0:
        return block
    return torch.nn.functional.pad(block, (0, missing), value=fill)
