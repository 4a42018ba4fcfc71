"""Answers as application/x-safetensors: tensors by name, the rest in the metadata `response`."""

import orjson
from safetensors.torch import save
from torch import Tensor

from service.wire.answers import Answer, Part
from service.wire.json_answer import plain


def encode(answer: Answer) -> bytes:
    """A file: `output`, `weights`, …, `diagnostics.<name>` per row, each behind its group's name.

    NaN and infinities are exact; the metadata entry `response` is the JSON of the rest.
    """
    tensors: dict[str, Tensor] = {}
    for part in answer.parts:
        prefix = "" if part.name is None else f"{part.name}."
        tensors |= {f"{prefix}{name}": t.contiguous() for name, t in part.tensors.items()}
        tensors |= {f"{prefix}diagnostics.{name}": t.contiguous() for name, t in part.rows.items()}
    documents = [_document(part) for part in answer.parts]
    whole = {"groups": documents} if answer.grouped else documents[0]
    response = orjson.dumps({**whole, **answer.common}, default=plain).decode()
    return save(tensors, {"response": response})


def _document(part: Part) -> dict[str, object]:
    return ({} if part.name is None else {"name": part.name}) | dict(part.document)
