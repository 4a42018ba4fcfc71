"""Answers as application/json, written in pieces that never hold the interpreter for long."""

import binascii
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
import torch
from torch import Tensor

from service.wire.answers import Answer, Part
from service.wire.pieces import Content
from service.wire.tensor_bytes import bytes_of

# Measured: orjson writes 30 million float32 a second; a piece of this size takes about 4 ms.
_PIECE = 2**17


def encode(answer: Answer, tensor_format: str) -> Content:
    """One document; NaN and infinities are null.

    Args:
        answer: the parts.
        tensor_format: how tensors are written: nested, flat or base64.
    """
    writer = Writer(tensor_format)
    return writer.whole(answer.whole([writer.part(part) for part in answer.parts]))


def encode_documents(answer: Answer) -> Content:
    """Without the tensors beside the documents."""
    return Content([dumps(answer.whole([part.headed for part in answer.parts]))])


def dumps(document: Mapping[str, Any]) -> bytes:
    """A document with arrays and small tensors in it; NaN and infinities are null."""
    return orjson.dumps(document, default=plain, option=orjson.OPT_SERIALIZE_NUMPY)


class Writer:
    """Writes large tensors beside the document, which holds a mark in the place of each.

    The mark is a byte that valid JSON never holds, inside strings neither.
    """

    _MARK = b"\x00"

    def __init__(self, tensor_format: str = "flat") -> None:
        self._format = tensor_format
        self._beside: list[list[bytes]] = []

    def whole(self, document: Mapping[str, Any]) -> Content:
        """The document with every tensor in its place."""
        between = dumps(document).split(self._MARK)
        pieces = [between[0]]
        for tensor, text in zip(self._beside, between[1:], strict=True):
            pieces += [*tensor, text]
        return Content(pieces)

    def part(self, part: Part) -> dict[str, Any]:
        """The document with its tensors behind shape and mask, as the contract shows it."""
        document = part.headed
        place = {name: self._tensor(tensor) for name, tensor in part.tensors.items()}
        for key in ("diagnostics", "verdict", "numerics", "theory", "gradients", "omitted"):
            if key in document:
                place[key] = document.pop(key)
            if key == "diagnostics" and part.rows:
                place["row_diagnostics"] = {n: self._tensor(t) for n, t in part.rows.items()}
        return {**document, **place}

    def _tensor(self, tensor: Tensor) -> object:
        if self._format == "nested":
            return self._placed(_text(_array(tensor)))
        header = {"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}
        if self._format == "flat":
            return {**header, "data": self.flat(tensor)}
        return {**header, "data": self._placed([b'"', *_base64(tensor), b'"'])}

    def flat(self, tensor: Tensor) -> orjson.Fragment:
        """All elements of a tensor in one list, row-major."""
        return self._placed(_text(_array(tensor).reshape(-1)))

    def _placed(self, pieces: list[bytes]) -> orjson.Fragment:
        if len(pieces) <= 3:
            return orjson.Fragment(b"".join(pieces))
        self._beside.append(pieces)
        return orjson.Fragment(self._MARK)


def _base64(tensor: Tensor) -> list[bytes]:
    raw, step = bytes_of(tensor), 3 * _PIECE
    return [binascii.b2a_base64(raw[i : i + step], newline=False) for i in range(0, len(raw), step)]


def _array(tensor: Tensor) -> "np.ndarray[Any, Any]":
    """Numpy has no bfloat16; float32 holds the same values."""
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).contiguous().numpy()


def _text(array: "np.ndarray[Any, Any]") -> list[bytes]:
    """JSON text; the only negative integer is −1, the index of no key, which is null."""
    pieces = _nested(array)
    if array.dtype == np.int64:
        return [piece.replace(b"-1", b"null") for piece in pieces]
    return pieces


def _nested(array: "np.ndarray[Any, Any]") -> list[bytes]:
    """Pieces of JSON text of an array, cut along its leading axis while it is large."""
    if array.size <= _PIECE or array.ndim == 0:
        return [orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY)]
    if array.ndim == 1:
        parts = [[_inside(array[i : i + _PIECE])] for i in range(0, array.size, _PIECE)]
    elif array[0].size <= _PIECE:
        rows = max(1, _PIECE // max(1, array[0].size))
        parts = [[_inside(array[i : i + rows])] for i in range(0, array.shape[0], rows)]
    else:
        parts = [_nested(item) for item in array]
    separated = [piece for part in parts for piece in (b",", *part)]
    return [b"[", *separated[1:], b"]"]


def _inside(array: "np.ndarray[Any, Any]") -> bytes:
    return orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]


def plain(value: object) -> object:
    """Small tensors inside a document, for the writer."""
    if isinstance(value, Tensor):
        return orjson.Fragment(orjson.dumps(_array(value), option=orjson.OPT_SERIALIZE_NUMPY))
    message = f"no JSON form for {type(value).__name__}"
    raise TypeError(message)
