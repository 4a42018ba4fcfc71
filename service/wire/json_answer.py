"""Answers as application/json, written in pieces that never hold the interpreter for long."""

import binascii
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
import torch
from torch import Tensor

from service.wire.answers import Answer, Part

# Measured: orjson writes 30 million float32 a second; a piece of this size takes about 4 ms.
_PIECE = 2**17


def encode(answer: Answer, tensor_format: str) -> bytes:
    """One document; NaN and infinities are null.

    Args:
        answer: the parts.
        tensor_format: how tensors are written: nested, flat or base64.
    """
    return dumps(answer.whole([_part(part, tensor_format) for part in answer.parts]))


def encode_documents(answer: Answer) -> bytes:
    """Without the tensors beside the documents."""
    return dumps(answer.whole([part.headed for part in answer.parts]))


def dumps(document: Mapping[str, Any]) -> bytes:
    """A document with small tensors in it; NaN and infinities are null."""
    return orjson.dumps(document, default=plain)


def _part(part: Part, tensor_format: str) -> dict[str, Any]:
    """The document with its tensors behind shape and mask, as the contract shows it."""
    document = part.headed
    place = {name: _tensor(tensor, tensor_format) for name, tensor in part.tensors.items()}
    for key in ("diagnostics", "verdict", "numerics", "theory", "gradients", "omitted"):
        if key in document:
            place[key] = document.pop(key)
        if key == "diagnostics" and part.rows:
            place["row_diagnostics"] = {n: _tensor(t, tensor_format) for n, t in part.rows.items()}
    return {**document, **place}


def _tensor(tensor: Tensor, tensor_format: str) -> object:
    if tensor_format == "nested":
        return orjson.Fragment(_text(_array(tensor)))
    header = {"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}
    if tensor_format == "flat":
        return {**header, "data": orjson.Fragment(_text(_array(tensor).reshape(-1)))}
    raw = (
        tensor.contiguous().view(torch.uint8) if tensor.dim() else tensor.view(1).view(torch.uint8)
    )
    return {**header, "data": binascii.b2a_base64(raw.numpy().data, newline=False).decode()}


def _array(tensor: Tensor) -> "np.ndarray[Any, Any]":
    """Numpy has no bfloat16; float32 holds the same values."""
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).contiguous().numpy()


def _text(array: "np.ndarray[Any, Any]") -> bytes:
    """JSON text; the only negative integer is −1, the index of no key, which is null."""
    text = b"".join(_nested(array))
    return text.replace(b"-1", b"null") if array.dtype == np.int64 else text


def _nested(array: "np.ndarray[Any, Any]") -> list[bytes]:
    """Pieces of JSON text of an array, cut along its leading axis while it is large."""
    if array.size <= _PIECE or array.ndim == 0:
        return [orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY)]
    if array.ndim == 1:
        parts = [_inside(array[i : i + _PIECE]) for i in range(0, array.size, _PIECE)]
        return [b"[", b",".join(parts), b"]"]
    rows = max(1, _PIECE // max(1, array[0].size))
    if array[0].size <= _PIECE:
        parts = [_inside(array[i : i + rows]) for i in range(0, array.shape[0], rows)]
        return [b"[", b",".join(parts), b"]"]
    return [b"[", b",".join(b"".join(_nested(item)) for item in array), b"]"]


def _inside(array: "np.ndarray[Any, Any]") -> bytes:
    return orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]


def plain(value: object) -> object:
    """Small tensors inside a document, for the writer."""
    if isinstance(value, Tensor):
        return orjson.Fragment(orjson.dumps(_array(value), option=orjson.OPT_SERIALIZE_NUMPY))
    message = f"no JSON form for {type(value).__name__}"
    raise TypeError(message)
