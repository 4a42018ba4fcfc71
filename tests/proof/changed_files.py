"""safetensors files with something changed in length, header, metadata or data."""

import json
import random
from typing import Any

from tests.files import framed
from tests.proof.changed_documents import changed_document

DTYPES = ["F8_E4M3", "BF16", "F16", "F32", "F64", "BOOL", "I8", "I32", "I64", "U8", "", "f32"]
NAMES = ["query", "key", "value", "logits", "weights", "mask.bias", "a.query", "x" * 300,
         "parameters.in_proj_weight", "mask.key_lengths", "key_lengths", "mask.offset"]  # fmt: skip
EXTENTS = [0, 1, 2, 3, 7, 2**31, 2**62, 2**64, -1]


def in_file(draw: random.Random, body: bytes) -> bytes:
    """In its length, its metadata, its header as JSON, or the place and kind of one tensor."""
    length = int.from_bytes(body[:8], "little")
    way, data = draw.random(), body[8 + length :]
    if way < 0.1:
        wrong = draw.choice([0, 1, length - 1, length + 1, len(body), 2**31, 2**63, 2**64 - 1])
        return (wrong % 2**64).to_bytes(8, "little") + body[8:]
    header = _object(json.loads(body[8 : 8 + length]))
    if way < 0.45:
        return framed(_metadata_changed(draw, header), data)
    if way < 0.7:
        return framed(changed_document(draw, header).encode("utf-8", "surrogatepass"), data)
    return framed(json.dumps(_entry_changed(draw, header)).encode(), data)


def _object(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise ValueError


def _metadata_changed(draw: random.Random, header: dict[str, Any]) -> bytes:
    request = json.loads(str(_object(header.get("__metadata__", {})).get("request", "{}")))
    text = changed_document(draw, request).encode("utf-8", "replace").decode()
    return json.dumps({**header, "__metadata__": {"request": text}}).encode()


def _entry_changed(draw: random.Random, header: dict[str, Any]) -> dict[str, Any]:
    """Another dtype, shape, name or place of one tensor."""
    tensors = [name for name, entry in header.items() if "dtype" in _object(entry)]
    name = draw.choice([*tensors, *header])
    entry = dict(_object(header[name]))
    way = draw.choice(["dtype", "shape", "data_offsets", "name"])
    if way == "name":
        return {(draw.choice(NAMES) if key == name else key): v for key, v in header.items()}
    if way == "dtype":
        entry["dtype"] = draw.choice(DTYPES)
    else:
        numbers = list(entry[way]) if isinstance(entry.get(way), list) else [0]
        at = draw.randint(0, len(numbers))
        numbers[at : at + draw.randint(0, 1)] = [draw.choice(EXTENTS)]
        entry[way] = numbers
    return {**header, name: entry}
