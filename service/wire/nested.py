"""Tensors in JSON: nested lists, flat data with a shape, base64 of little-endian bytes."""

import binascii
import math
from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from schemas.tensors import Role, TensorReader
from service.limits import within
from service.settings import Settings
from service.wire.json_numbers import Numbers
from service.wire.tensor_bytes import BY_NAME, from_bytes, refusal, refuse_vast

MOST_AXES = 4
_PIECE = 2**17
_DTYPES: dict[Role, tuple[str, ...]] = {
    "number": ("float16", "bfloat16", "float32", "float64"),
    "number_or_forbidden": ("float16", "bfloat16", "float32", "float64"),
    "boolean": ("bool",),
    "integer": ("int64",),
}
_ELEMENTS: dict[Role, frozenset[type]] = {
    "number": frozenset({int, float}),
    "number_or_forbidden": frozenset({int, float, type(None)}),
    "boolean": frozenset({bool}),
    "integer": frozenset({int}),
}
_WORDS: dict[Role, str] = {
    "number": "numbers",
    "number_or_forbidden": "numbers or null",
    "boolean": "true and false",
    "integer": "integers",
}


def reader(settings: Settings) -> TensorReader:
    """A reader for the validation context, bounded by `max_elements`."""

    def read(value: object, role: Role) -> object:
        if isinstance(value, Tensor):
            return _checked_dtype(value, role)
        if isinstance(value, Numbers):
            return _of_numbers(value, role, settings)
        if isinstance(value, list):
            flat, shape = flatten(value, role, settings)
            dtype = {"boolean": "bool", "integer": "int64"}.get(role, "float32")
            return _build(flat, shape, dtype)
        if isinstance(value, dict):
            return _read_flat(value, role, settings)
        if role == "integer" and type(value) is int:
            return _build([value], (), "int64")
        if role == "integer" and type(value) is float:
            # The parser makes floats of integers that are too long.
            if abs(value) >= 2**63:
                raise refusal("tensor_element", "expected an integer that fits into 64 bits")
            raise refusal("tensor_element", "expected an integer; found a number with a fraction")
        raise refusal(
            "tensor_type",
            "expected a nested list of {words}, or an object with shape and data",
            words=_WORDS[role],
        )

    return read


def _checked_dtype(tensor: Tensor, role: Role) -> Tensor:
    name = str(tensor.dtype).removeprefix("torch.")
    if role == "integer" and name == "int32":
        return tensor.to(torch.int64)
    if name not in _DTYPES[role]:
        raise refusal(
            "tensor_dtype",
            "expected dtype {expected}; found {found}",
            expected=" or ".join(_DTYPES[role]),
            found=name,
        )
    return tensor


def flatten(value: list[Any], role: Role, settings: Settings) -> tuple[list[Any], tuple[int, ...]]:
    """The elements and the shape of a nested list; fails at the first thing wrong."""
    shape: list[int] = []
    level = value
    while True:
        shape.append(len(level) // math.prod(shape) if shape else len(level))
        kinds = _kinds(level)
        if list not in kinds:
            break
        if kinds != {list}:
            raise refusal("tensor_ragged", "the list mixes lists and elements at one level")
        lengths = set(map(len, level))
        if len(lengths) > 1:
            raise refusal(
                "tensor_ragged",
                "the list is ragged: lengths {low} and {high} at axis {axis}",
                low=min(lengths),
                high=max(lengths),
                axis=len(shape),
            )
        if len(shape) == MOST_AXES:
            raise refusal("tensor_rank", "a tensor has at most {most} axes", most=MOST_AXES)
        level = list(chain.from_iterable(level))
    _refuse_elements(level, kinds, role, tuple(shape))
    within(settings, "max_elements", len(level), "a tensor, in elements")
    return level, tuple(shape)


def _kinds(level: list[Any]) -> set[type]:
    """The types at one level, looked at piece by piece."""
    return set().union(*(set(map(type, piece)) for piece in _pieces(level)))


def _pieces(flat: list[Any]) -> Iterator[list[Any]]:
    """Parts small enough that no call holds the interpreter lock for long (measured: 7 ms)."""
    return (flat[start : start + _PIECE] for start in range(0, len(flat), _PIECE))


def _refuse_elements(flat: list[Any], kinds: set[type], role: Role, shape: tuple[int, ...]) -> None:
    wrong = kinds - _ELEMENTS[role]
    if not wrong:
        return
    place = next(i for i, element in enumerate(flat) if type(element) in wrong)
    index = [int(i) for i in np.unravel_index(place, shape)]
    raise refusal(
        "tensor_element",
        "expected {words}; found {found} at {index}",
        words=_WORDS[role],
        found=json_kind(flat[place]),
        index=str(index),
    )


def json_kind(value: object) -> str:
    """What JSON calls a value."""
    names = {str: "a string", bool: "a boolean", type(None): "null", dict: "an object"}
    names |= {list: "an array", float: "a number with a fraction"}
    return names.get(type(value), "a number")


def _build(flat: list[Any], shape: tuple[int, ...], dtype: str) -> Tensor:
    if dtype == "bool":
        return torch.from_numpy(np.array(flat, dtype=np.bool_)).view(shape)
    if dtype == "int64":
        return torch.from_numpy(_integers(flat)).view(shape)
    wide, forbidden = _numbers(flat)
    tensor = wide.to(BY_NAME[dtype]).view(shape)
    _refuse_overflow(wide, tensor, dtype, forbidden=forbidden)
    return tensor


def _numbers(flat: list[Any]) -> tuple[Tensor, bool]:
    """float64, null as −∞, and whether there was any."""
    wide, forbidden, start = np.empty(len(flat)), False, 0
    for piece in _pieces(flat):
        if None in piece:
            piece = [-math.inf if element is None else element for element in piece]
            forbidden = True
        wide[start : start + len(piece)] = piece
        start += len(piece)
    return torch.from_numpy(wide), forbidden


def _integers(flat: list[int]) -> "np.ndarray[Any, np.dtype[np.int64]]":
    try:
        return np.array(flat, dtype=np.int64)
    except OverflowError:
        raise refusal("tensor_element", "an integer does not fit into 64 bits") from None


def _refuse_overflow(wide: Tensor, tensor: Tensor, dtype: str, *, forbidden: bool) -> None:
    if bool(torch.isfinite(tensor.sum(dtype=torch.float64))) and not forbidden:
        return
    broken = torch.isfinite(wide.view(tensor.shape)) & ~torch.isfinite(tensor)
    if bool(broken.any()):
        first = [int(i) for i in broken.nonzero()[0]] if tensor.dim() else []
        raise refusal(
            "tensor_overflow",
            "the number at {index} is too large for {dtype}",
            index=str(first),
            dtype=dtype,
        )


def _read_flat(value: dict[str, Any], role: Role, settings: Settings) -> Tensor:
    """An object with shape, dtype and data (a flat list, or base64 of little-endian bytes)."""
    unknown = sorted(set(value) - {"shape", "dtype", "data"})
    if unknown or "shape" not in value or "data" not in value:
        raise refusal("tensor_fields", "expected the fields shape, dtype (optional) and data")
    shape = _shape(value["shape"], settings)
    dtype = value.get("dtype", _DTYPES[role][0] if role in ("boolean", "integer") else "float32")
    if not isinstance(dtype, str) or dtype not in _DTYPES[role]:
        raise refusal(
            "tensor_dtype", "expected dtype {expected}", expected=" or ".join(_DTYPES[role])
        )
    data = value["data"]
    if isinstance(data, Numbers) and data.flat.size == math.prod(shape) and len(data.shape) == 1:
        return _from_numbers(data.flat, shape, dtype)
    if isinstance(data, str):
        return _from_base64(data, shape, dtype)
    if not isinstance(data, list):
        raise refusal("tensor_type", "data must be a flat list, or base64 in a string")
    if len(data) != math.prod(shape):
        raise refusal(
            "tensor_shape",
            "shape {shape} needs {expected} elements; found {found}",
            shape=str(list(shape)),
            expected=math.prod(shape),
            found=len(data),
        )
    _refuse_elements(data, _kinds(data), role, (len(data),))
    return _build(data, shape, dtype)


def _of_numbers(value: Numbers, role: Role, settings: Settings) -> Tensor:
    """A nested list that was read without lists; one that is wrong is read again as lists."""
    if role not in ("number", "number_or_forbidden"):
        raise refusal("tensor_element", "expected {words}", words=_WORDS[role])
    within(settings, "max_elements", value.flat.size, "a tensor, in elements")
    return _from_numbers(value.flat, value.shape, "float32")


def _from_numbers(
    flat: "np.ndarray[Any, np.dtype[np.float64]]", shape: tuple[int, ...], dtype: str
) -> Tensor:
    if dtype == "float32":
        # Of a few thousand numbers numpy casts and looks in a third of torch's time.
        with np.errstate(over="ignore"):
            narrow = flat.astype(np.float32)
        if not np.isinf(narrow).any():
            return torch.from_numpy(narrow).view(shape)
    wide = torch.from_numpy(flat)
    tensor = wide.to(BY_NAME[dtype], copy=True).view(shape)
    _refuse_overflow(wide, tensor, dtype, forbidden=False)
    return tensor


def _shape(given: object, settings: Settings) -> tuple[int, ...]:
    extents: list[Any] = given if isinstance(given, list) else [None]
    if len(extents) > MOST_AXES or not all(type(n) is int and n >= 0 for n in extents):
        raise refusal(
            "tensor_shape", "shape must be a list of at most {most} extents", most=MOST_AXES
        )
    shape: tuple[int, ...] = tuple(extents)
    within(settings, "max_elements", math.prod(shape), "a tensor, in elements")
    refuse_vast(shape)
    return shape


def _from_base64(text: str, shape: tuple[int, ...], dtype: str) -> Tensor:
    needed = math.prod(shape) * BY_NAME[dtype].itemsize
    expected = 4 * math.ceil(needed / 3)
    if len(text) != expected:
        raise refusal(
            "tensor_shape",
            "shape {shape} of {dtype} needs {expected} characters of base64; found {found}",
            shape=str(list(shape)),
            dtype=dtype,
            expected=expected,
            found=len(text),
        )
    try:
        raw = bytearray(binascii.a2b_base64(text, strict_mode=True))
    except (binascii.Error, ValueError):
        raise refusal("tensor_base64", "data is not base64") from None
    if len(raw) != needed:
        raise refusal("tensor_base64", "data is not base64 of the right length")
    return from_bytes(raw, 0, shape, dtype)
