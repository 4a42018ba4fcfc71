"""From a mask request and the shapes to offsets, lengths and members."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from schemas.masks import Mask as MaskRequest
from service.errors import InvalidMask
from service.masks.base import Mask, Setting
from service.shape import Shape

_OFFSET_LIMIT = 2**40


@dataclass(frozen=True, slots=True)
class ResolvedMask:
    """The members that apply, the offset of each batch item, and what the bias had to tell."""

    members: tuple[Mask, ...]
    causal: str
    offsets: tuple[int, ...]
    near_forbidden: int


def resolve(
    request: MaskRequest,
    shape: Shape,
    kinds: Iterable[type[Mask]],
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> ResolvedMask:
    """Check the request against the shapes and make its masks.

    Raises:
        InvalidMask: contradictions, lengths out of range, extents that do not fit.
    """
    lengths = _lengths(request, shape)
    offsets = _offsets(request, shape, lengths)
    setting = Setting(request, shape, offsets, lengths, dtype, device)
    members = tuple(m for kind in kinds if (m := kind.resolve(setting)) is not None)
    near = sum(member.near_forbidden for member in members)
    return ResolvedMask(members, request.causal, offsets, near)


def _lengths(request: MaskRequest, shape: Shape) -> tuple[int, ...] | None:
    if request.key_lengths is None:
        return None
    lengths = _integers(request.key_lengths, shape, "key_lengths")
    if not all(0 <= length <= shape.key_length for length in lengths):
        raise InvalidMask(
            f"key lengths must be 0 … {shape.key_length}; found one outside",
            pointer="/mask/key_lengths",
        )
    return lengths


def _offsets(
    request: MaskRequest, shape: Shape, lengths: tuple[int, ...] | None
) -> tuple[int, ...]:
    lower_right = request.causal == "lower_right"
    if request.offset is not None:
        if lower_right:
            raise InvalidMask(
                "causal lower_right takes its offset from the lengths; give an offset with "
                "upper_left, or no offset",
                pointer="/mask/offset",
            )
        window = request.window
        bounded = window is not None and not (window.left is None and window.right is None)
        if request.causal == "none" and not bounded:
            raise InvalidMask(
                "an offset without causal or window has nothing to place", pointer="/mask/offset"
            )
        return _integers(request.offset, shape, "offset")
    if not lower_right:
        return (0,) * shape.batch
    ends = lengths or (shape.key_length,) * shape.batch
    return tuple(end - shape.query_length for end in ends)


def _integers(given: Tensor, shape: Shape, field: str) -> tuple[int, ...]:
    """One integer per batch item; a scalar offset serves all."""
    if field == "offset" and given.dim() == 0:
        given = given.expand(shape.batch)
    if given.dim() != 1 or given.shape[0] != shape.batch:
        raise InvalidMask(
            f"mask.{field} must hold one integer per batch item ({shape.batch}); found shape "
            f"{list(given.shape)}",
            pointer=f"/mask/{field}",
        )
    values = tuple(int(n) for n in given.tolist())
    if any(abs(n) > _OFFSET_LIMIT for n in values):
        raise InvalidMask(
            f"mask.{field} must lie within ±{_OFFSET_LIMIT:,}", pointer=f"/mask/{field}"
        )
    return values
