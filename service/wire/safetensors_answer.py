"""Answers as application/x-safetensors: tensors by name, the rest in the metadata `response`.

The format is that of safetensors 0.8, as its library writes it: eight bytes of header length, a
JSON header padded with spaces, then the tensors, wider elements first. The library returns a copy
of all tensors in one piece; here each is sent from where it lies.
"""

from typing import Any

import orjson
from torch import Tensor

from service.wire.answers import Answer
from service.wire.json_answer import dumps
from service.wire.pieces import Content
from service.wire.safetensors_header import DTYPES
from service.wire.tensor_bytes import bytes_of

_ALIGNMENT = 8
_NAMES = {name: code for code, (name, _) in DTYPES.items()}


def encode(answer: Answer) -> Content:
    """A file: `output`, `weights`, …, `diagnostics.<name>` per row, each behind its group's name.

    NaN and infinities are exact; the metadata entry `response` is the JSON of the rest.
    """
    tensors: dict[str, Tensor] = {}
    for part in answer.parts:
        prefix = "" if part.name is None else f"{part.name}."
        tensors |= {f"{prefix}{name}": tensor for name, tensor in part.tensors.items()}
        tensors |= {f"{prefix}diagnostics.{name}": tensor for name, tensor in part.rows.items()}
    response = dumps(answer.whole([part.headed for part in answer.parts])).decode()
    return _file(tensors, {"response": response})


def _file(tensors: dict[str, Tensor], metadata: dict[str, str]) -> Content:
    header: dict[str, Any] = {"__metadata__": metadata}
    ordered = sorted(tensors.items(), key=lambda named: (-named[1].element_size(), named[0]))
    start, pieces = 0, []
    for name, tensor in ordered:
        piece = bytes_of(tensor)
        stop = start + len(piece)
        dtype = _NAMES[str(tensor.dtype).removeprefix("torch.")]
        header[name] = {
            "dtype": dtype,
            "shape": list(tensor.shape),
            "data_offsets": [start, stop],
        }
        start = stop
        pieces.append(piece)
    text = orjson.dumps(header)
    text += b" " * (-len(text) % _ALIGNMENT)
    return Content([len(text).to_bytes(8, "little") + text, *pieces])
