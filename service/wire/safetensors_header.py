"""The safetensors header: which tensor lies where (format of safetensors 0.8).

Eight bytes of little-endian header length, a JSON header, then the tensors without holes. The
library reads only files or copies of all tensors without the metadata, so the header is read here:
every tensor stays where it arrived.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from service.errors import Malformed
from service.limits import within
from service.settings import Settings
from service.wire.documents import parse, parse_request

_HEADER_LIMIT = 4 * 2**20
# Twice 256 groups with every name there is; 30,000 entries would take half a second to sort.
_MOST_ENTRIES = 16_384
# The answer repeats the name of a group for each of its heads.
_LONGEST_NAME = 256
# Measured on three tensors: 3 µs for a header that is known, against 70. What is not valid is not
# remembered; all together they take a megabyte.
_REMEMBERED, _REMEMBERED_BYTES = 128, 2**12
DTYPES = {
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "F32": ("float32", 4),
    "F64": ("float64", 8),
    "BOOL": ("bool", 1),
    "I32": ("int32", 4),
    "I64": ("int64", 8),
}


_OTHERS = ("U8", "I8", "U16", "I16", "U32", "U64", "C64", "F4", "F6_E2M3", "F6_E3M2", "F8_E4M3",
           "F8_E5M2", "F8_E8M0")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a tensor lies in the body; `dtype` as safetensors names it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def read_header(body: bytearray, settings: Settings) -> tuple[Sequence[Entry], Mapping[str, str]]:
    """The entries in the order they lie in, and the metadata.

    Whoever sends a file sends many of the same form: short headers are remembered.

    Raises:
        Malformed: the header does not describe the body.
        LimitExceeded: a tensor with too many elements.
    """
    if len(body) < 8:
        raise Malformed(f"a safetensors body has at least 8 bytes; found {len(body)}")
    length = int.from_bytes(body[:8], "little")
    if length > min(_HEADER_LIMIT, len(body) - 8):
        raise Malformed(
            f"the safetensors header claims {length:,} bytes; allowed are {_HEADER_LIMIT:,} and "
            f"the body has {len(body) - 8:,} after its first 8"
        )
    text = bytes(memoryview(body)[8 : 8 + length])
    read = _remembered if length <= _REMEMBERED_BYTES else _read
    return read(text, len(body), settings)


def _read(
    text: bytes, body_bytes: int, settings: Settings
) -> tuple[tuple[Entry, ...], Mapping[str, str]]:
    if not text.startswith(b"{"):
        raise Malformed("a safetensors header starts with an opening brace")
    try:
        document = parse(text, settings)
    except Malformed as error:
        raise Malformed(f"safetensors header: {error.detail}") from None
    metadata = _metadata(document.pop("__metadata__", {}))
    if len(document) > _MOST_ENTRIES:
        raise Malformed(
            f"a safetensors file has at most {_MOST_ENTRIES:,} entries here; found "
            f"{len(document):,}"
        )
    start = 8 + len(text)
    entries = [_entry(name, fields, start, settings) for name, fields in document.items()]
    entries.sort(key=lambda entry: (entry.start, entry.stop))
    _refuse_holes(entries, start, body_bytes)
    return tuple(entries), metadata


_remembered = lru_cache(_REMEMBERED)(_read)


def _metadata(given: object) -> dict[str, str]:
    if not isinstance(given, dict) or not all(isinstance(v, str) for v in given.values()):
        raise Malformed("safetensors metadata must map names to strings")
    return given


def _entry(name: str, fields: object, data_start: int, settings: Settings) -> Entry:
    if not isinstance(fields, dict) or set(fields) != {"dtype", "shape", "data_offsets"}:
        raise Malformed("a safetensors entry has exactly dtype, shape and data_offsets")
    if len(name) > _LONGEST_NAME:
        raise Malformed(f"the name of a safetensors entry has at most {_LONGEST_NAME} characters")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or not _naturals(shape) or not _naturals(offsets, 2):
        raise Malformed("a safetensors entry has a dtype, a list of extents and two offsets")
    if len(shape) > 16:
        raise Malformed("a safetensors entry has at most 16 axes here")
    elements = math.prod(shape)
    within(settings, "max_elements", elements, "a tensor of the file, in elements")
    start, stop = offsets
    size = DTYPES.get(dtype, ("", 0))[1]
    if stop < start or (size and stop - start != elements * size):
        raise Malformed(
            f"a safetensors entry of {told_dtype(dtype)} and shape {shape} cannot span "
            f"{stop - start:,} bytes"
        )
    return Entry(name, dtype, tuple(shape), data_start + start, data_start + stop)


def told_dtype(dtype: str) -> str:
    """By its name, where that is one of the format's and not just any text of the caller's."""
    return f"dtype {dtype}" if dtype in (*DTYPES, *_OTHERS) else "an unknown dtype"


def _naturals(given: object, count: int | None = None) -> bool:
    if not isinstance(given, list) or (count is not None and len(given) != count):
        return False
    return all(type(n) is int and 0 <= n < 2**63 for n in given)


def _refuse_holes(entries: list[Entry], start: int, stop: int) -> None:
    for entry in entries:
        if entry.start != start:
            raise Malformed("safetensors entries must follow one another without holes or overlaps")
        start = entry.stop
    if start != stop:
        raise Malformed(
            f"the safetensors entries end at byte {start:,}; the body has {stop:,} bytes"
        )


def parse_embedded(text: str, settings: Settings, where: str) -> Mapping[str, object]:
    """A JSON document inside a string, such as the metadata entry `request`."""
    try:
        parse = _remembered_request if len(text) <= _REMEMBERED_BYTES else parse_request
        return parse(text.encode(), settings)
    except (Malformed, UnicodeEncodeError) as error:
        detail = error.detail if isinstance(error, Malformed) else "it is not Unicode text"
        raise Malformed(f"{where}: {detail}") from None


_remembered_request = lru_cache(_REMEMBERED)(parse_request)
