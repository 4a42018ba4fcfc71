"""safetensors files, well formed or broken on purpose, written without the service."""

import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

EXAMPLE = Path(__file__).parents[1] / "examples" / "minilm.safetensors"
NAMES = {
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.bool: "BOOL",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.uint8: "U8",
}


def raw(tensor: Tensor) -> bytes:
    """The little-endian bytes of a tensor."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def file_of(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, *, padding: int = 0
) -> bytes:
    """A file of these tensors in this order, its header padded with spaces."""
    entries = [(name, NAMES[t.dtype], list(t.shape), raw(t)) for name, t in tensors.items()]
    return file_with(entries, metadata, padding=padding)


def file_with(
    entries: Iterable[tuple[str, Any, Any, bytes]],
    metadata: Mapping[str, str] | None = None,
    *,
    padding: int = 0,
) -> bytes:
    """A file whose header says of each entry what is given, true or not."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    data = b""
    for name, dtype, shape, content in entries:
        place = [len(data), len(data) + len(content)]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": place}
        data += content
    return framed(json.dumps(header).encode() + b" " * padding, data)


def framed(header: bytes, data: bytes = b"") -> bytes:
    """The header's length, the header, the data."""
    return struct.pack("<Q", len(header)) + header + data


def header_of(content: bytes) -> dict[str, Any]:
    """The header of a file as JSON."""
    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])


def response_of(content: bytes) -> dict[str, Any]:
    """The metadata entry `response` of an answer."""
    return json.loads(header_of(content)["__metadata__"]["response"])
