"""safetensors files that are none, that contradict themselves, or that make no sense."""

import json
import math
import struct
from typing import Any

import torch

from tests.builders import normal
from tests.files import file_of, file_with, framed, raw
from tests.proof.originals import COMPARISONS, ESTIMATE, SOFTMAX
from tests.proof.rows import (
    CANARY,
    INVALID,
    LIMIT,
    MALFORMED,
    MASK,
    NONFINITE,
    SHAPE,
    UNKNOWN,
    Row,
    file_row,
)

QUERY = normal(2, 3)
GOOD = file_of({"query": QUERY})
BYTES = raw(QUERY)


def header(document: object, data: bytes = b"") -> bytes:
    """A file with this header, right or wrong."""
    return framed(json.dumps(document).encode(), data)


def one(*, data: bytes = BYTES, **changes: Any) -> bytes:
    """A file whose only entry has something changed."""
    entry = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24], **changes}
    return header({"query": {n: v for n, v in entry.items() if v != "-"}}, data)


def two(first: list[int], second: list[int], data: int) -> bytes:
    """Two entries of six numbers at these places of so many bytes."""
    entry = {"dtype": "F32", "shape": [2, 3]}
    return header(
        {"query": {**entry, "data_offsets": first}, "key": {**entry, "data_offsets": second}},
        bytes(data),
    )


def asked(request: Any, **tensors: torch.Tensor) -> bytes:
    """A good file with a request beside its tensors."""
    text = request if isinstance(request, str) else json.dumps(request)
    return file_of(tensors or {"query": QUERY}, {"request": text})


FRAMES = {
    "nothing": b"",
    "7 bytes": GOOD[:7],
    "a length alone": GOOD[:8],
    "a cut header": GOOD[:30],
    "cut data": GOOD[:-1],
    "data too many": GOOD + b"\0",
    "JSON": b'{"query": [[1, 2]]}',
    "a zip": b"PK\x03\x04" + bytes(30),
    "a pickle": b"\x80\x04\x95" + bytes(30),
    "a length of 0": struct.pack("<Q", 0) + GOOD[8:],
    "a length of one too few": struct.pack("<Q", len(GOOD) - 33) + GOOD[8:],
    "a length beyond the body": struct.pack("<Q", len(GOOD)) + GOOD[8:],
    "a length of 2**64 - 1": b"\xff" * 8 + GOOD[8:],
    "a length in the other order": GOOD[:8][::-1] + GOOD[8:],
    "a header of 5 MB": framed(b"{" + b" " * 5_000_000 + b"}"),
    "a header that is a list": framed(b"[]"),
    "a header that is cut": framed(b"{"),
    "a header with a byte order mark": framed(b"\xef\xbb\xbf{}"),
    "a header after a space": framed(b" {}"),
    "a header in UTF-16": framed("{}".encode("utf-16-le")),
    "a header with NaN": framed(b'{"query":NaN}'),
    "a lone surrogate for a name": framed(b'{"\\ud800":1}'),
    "a name twice": framed(
        b'{"query":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},'
        b'"query":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'
    ),
    "a field twice": framed(
        b'{"query":{"dtype":"F32","dtype":"F16","shape":[0],"data_offsets":[0,0]}}'
    ),
}
ENTRIES = {
    "an entry of null": header({"query": None}),
    "an entry of text": header({"query": CANARY}),
    "no dtype": one(dtype="-"),
    "no shape": one(shape="-"),
    "no offsets": one(data_offsets="-"),
    "a field too many": one(order=CANARY),
    "a dtype of number 1": one(dtype=1),
    "a shape of text": one(shape=CANARY),
    "a negative shape": one(shape=[-2, 3]),
    "a shape of fractions": one(shape=[2.0, 3]),
    "a shape of booleans": one(shape=[True, True]),
    "a shape of 2**63": one(shape=[2**63]),
    "17 axes": one(shape=[1] * 17),
    "a vast shape of nothing": one(shape=[0, 2**62, 4], data_offsets=[0, 0], data=b""),
    "offsets of one number": one(data_offsets=[24]),
    "offsets of three numbers": one(data_offsets=[0, 12, 24]),
    "offsets of text": one(data_offsets=[CANARY, CANARY]),
    "negative offsets": one(data_offsets=[-24, 0]),
    "offsets reversed": one(data_offsets=[24, 0]),
    "offsets of 2**64": one(data_offsets=[0, 2**64]),
    "offsets beyond the data": one(data_offsets=[24, 48]),
    "offsets too narrow": one(data_offsets=[0, 20]),
    "a shape too large": one(shape=[2, 4]),
    "a shape without extents": one(shape=[]),
    "an overlap": two([0, 24], [12, 36], 36),
    "the same place twice": two([0, 24], [0, 24], 24),
    "a hole": two([0, 24], [28, 52], 52),
    "a hole at the beginning": two([4, 28], [28, 52], 52),
    "data that no entry has": two([0, 24], [24, 48], 52),
    "a name of 257 characters": file_of({"x" * 257: QUERY}),
    "16,385 entries": file_of({f"x{i}": torch.empty(0) for i in range(16_385)}),
    "metadata of text": header({"__metadata__": CANARY}),
    "metadata of numbers": header({"__metadata__": {"request": 1}}),
    "metadata in lists": header({"__metadata__": [["request", "{}"]]}),
    "metadata of metadata": header({"__metadata__": {"request": {"mask": {}}}}),
    "a request that is cut": asked("{"),
    "a request of nothing": asked(""),
    "a request in a list": asked([{}]),
    "a request of text": asked(CANARY),
    "a request with a key twice": asked('{"mask":{},"mask":{}}'),
    "a request of NaN": asked('{"mechanism":{"scale":NaN}}'),
}
VAST = {"a vast shape of nothing"}
"""Well formed, but no tensor."""
SENSELESS = {
    "no such dtype": (one(dtype=CANARY), INVALID),
    "a dtype of 8 bits": (one(dtype="F8_E4M3", data=BYTES[:6], data_offsets=[0, 6]), INVALID),
    "bytes for numbers": (file_of({"query": QUERY.to(torch.uint8)}), INVALID),
    "booleans for numbers": (file_of({"query": QUERY.bool()}), INVALID),
    "integers for numbers": (file_of({"query": QUERY.long()}), INVALID),
    "a boolean byte of 7": (
        file_with([("query", "F32", [2, 3], BYTES), ("mask.allowed", "BOOL", [1, 2], b"\x07\1")]),
        INVALID),
    "a million elements too many": (one(shape=[2**26 + 1]), LIMIT),
    "2**248 elements": (one(shape=[2**62] * 4), LIMIT),
    "no tensors": (file_of({}), INVALID),
    "a key without query": (file_of({"key": QUERY}), INVALID),
    "an unknown entry": (file_of({"query": QUERY, "output": QUERY}), UNKNOWN),
    "query and weights": (file_of({"query": QUERY, "weights": QUERY}), UNKNOWN),
    "logits and weights": (file_of({"logits": QUERY, "weights": QUERY}), UNKNOWN),
    "names of emoji": (file_of({"😀" * 60 + str(i): QUERY for i in range(60)}), UNKNOWN),
    "a mask of no group": (
        file_of({"a.query": QUERY, "b.mask.bias": torch.zeros(2, 2)}), UNKNOWN),
    "with and without a group": (file_of({"query": QUERY, "a.query": QUERY}), INVALID),
    "257 groups": (file_of({f"g{i}.query": QUERY for i in range(257)}), LIMIT),
    "a group that does not fit": (
        file_of({"a.query": QUERY, "b.query": QUERY, "b.key": normal(2, 4)}), SHAPE),
    "key lengths twice": (
        file_of({"query": QUERY, "key_lengths": torch.tensor([1]),
                 "mask.key_lengths": torch.tensor([1])}), INVALID),
    "key lengths of fractions": (
        file_of({"query": QUERY, "key_lengths": torch.tensor([1.0])}), INVALID),
    "key lengths too large": (file_of({"query": QUERY, "key_lengths": torch.tensor([9])}), MASK),
    "a bias of integers": (
        file_of({"query": QUERY, "mask.bias": torch.zeros(2, 2).long()}), INVALID),
    "a bias of other keys": (file_of({"query": QUERY, "mask.bias": torch.zeros(2, 5)}), MASK),
    "a bias of NaN": (
        file_of({"query": QUERY, "mask.bias": torch.full((2, 2), math.nan)}), NONFINITE),
    "NaN": (file_of({"query": torch.full((2, 3), math.nan)}), NONFINITE),
    "infinity in float16": (file_of({"query": QUERY.half() / 0}), NONFINITE),
    "NaN in bfloat16": (file_of({"query": QUERY.bfloat16() * math.nan}), NONFINITE),
    "dtypes that differ": (file_of({"query": QUERY, "key": QUERY.half()}), "dtype-mismatch"),
    "rank 5": (file_of({"query": normal(1, 1, 1, 2, 3)}), SHAPE),
    "rank 0": (file_of({"query": torch.tensor(1.0)}), SHAPE),
    "no elements": (file_of({"query": torch.empty(0, 3)}), SHAPE),
    "weights without mechanism": (
        file_of({"query": QUERY, "parameters.weight": normal(3, 3)}), INVALID),
    "weights twice": (
        asked({"mechanism": {"kind": "multi_head", "heads": 1}}, query=normal(2, 6),
              **{"parameters.in_proj_weight": normal(18, 6),
                 "parameters.query_weight": normal(6, 6)}), INVALID),
    "a stack of 17": (
        asked({"mechanism": {"kind": "multi_head", "heads": 1}}, query=normal(2, 6),
              **{"parameters.in_proj_weight": normal(17, 6)}), INVALID),
    "inputs in the request too": (asked({"inputs": {"kind": "seeded"}}), INVALID),
    "a mask in the request too": (
        asked({"mask": {"bias": [[0]]}}, query=QUERY, **{"mask.bias": torch.zeros(2, 2)}),
        INVALID),
    "a mask of text": (asked({"mask": CANARY}), INVALID),
    "a mechanism of text": (asked({"mechanism": CANARY}), INVALID),
    "an unknown field": (asked({"x": CANARY}), INVALID),
    "ignoring by text": (asked({"ignore_unknown": CANARY}), INVALID),
}  # fmt: skip
SOFTENED = {
    "query for logits": (file_of({"query": QUERY}), UNKNOWN),
    "logits and others": (file_of({"logits": QUERY, "x": QUERY}), UNKNOWN),
    "logits twice": (asked({"logits": [1]}, logits=QUERY), INVALID),
    "no logits": (file_of({}), INVALID),
    "logits of integers": (file_of({"logits": QUERY.long()}), INVALID),
    "logits of NaN": (file_of({"logits": QUERY * math.nan}), NONFINITE),
    "logits of rank 0": (file_of({"logits": torch.tensor(1.0)}), SHAPE),
}
ELSEWHERE = ["cut data", "a length of 2**64 - 1", "a name twice", "JSON"]
ROWS: list[Row] = [
    *(file_row(name, content, MALFORMED) for name, content in FRAMES.items()),
    *(
        file_row(name, content, INVALID if name in VAST else MALFORMED)
        for name, content in ENTRIES.items()
    ),
    *(file_row(name, content, slug) for name, (content, slug) in SENSELESS.items()),
    *(file_row(name, *case, path=SOFTMAX) for name, case in SOFTENED.items()),
    *(
        file_row(name, FRAMES[name], MALFORMED, path=path)
        for path in (ESTIMATE, SOFTMAX, COMPARISONS)
        for name in ELSEWHERE
    ),
]
