"""Tensors from bytes and their bytes, in row-major order, where they lie."""

import math
from typing import Any

import torch
from pydantic_core import PydanticCustomError
from torch import Tensor

BY_NAME = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
    "bool": torch.bool,
    "int32": torch.int32,
    "int64": torch.int64,
}


def refusal(kind: str, message: str, **facts: Any) -> PydanticCustomError:
    """What a tensor that is not one is refused with."""
    return PydanticCustomError(kind, message, facts)


def refuse_vast(shape: tuple[int, ...]) -> None:
    """Beside an extent of 0 the others pass every bound, but torch's strides are 64 bits wide.

    Raises:
        PydanticCustomError: they do not fit.
    """
    if math.prod(max(1, n) for n in shape) >= 2**62:
        raise refusal("tensor_shape", "the extents of shape are too large")


def from_bytes(raw: bytearray, offset: int, shape: tuple[int, ...], dtype: str) -> Tensor:
    """A tensor over little-endian bytes, without a copy where the address permits.

    Raises:
        PydanticCustomError: a boolean byte that is neither 0 nor 1, or a vast shape without
            elements.
    """
    count = math.prod(shape)
    refuse_vast(shape)
    if count == 0:
        return torch.empty(shape, dtype=BY_NAME[dtype])
    if dtype == "bool":
        plain = torch.frombuffer(raw, dtype=torch.uint8, count=count, offset=offset)
        if int(plain.max()) > 1:
            raise refusal("tensor_element", "a boolean byte must be 0 or 1")
        return plain.to(torch.bool).view(shape)
    if offset % BY_NAME[dtype].itemsize:
        raw, offset = raw[offset : offset + count * BY_NAME[dtype].itemsize], 0
    tensor = torch.frombuffer(raw, dtype=BY_NAME[dtype], count=count, offset=offset)
    return tensor.view(shape)


def bytes_of(tensor: Tensor) -> memoryview:
    """A view of the elements' bytes; copied only where they do not lie in this order."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
