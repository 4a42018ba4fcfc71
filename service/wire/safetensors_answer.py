"""Answers as application/x-safetensors: tensors by name, the rest in the metadata `response`."""

from safetensors.torch import save
from torch import Tensor

from service.wire.answers import Answer
from service.wire.json_answer import dumps


def encode(answer: Answer) -> bytes:
    """A file: `output`, `weights`, …, `diagnostics.<name>` per row, each behind its group's name.

    NaN and infinities are exact; the metadata entry `response` is the JSON of the rest.
    """
    tensors: dict[str, Tensor] = {}
    for part in answer.parts:
        prefix = "" if part.name is None else f"{part.name}."
        tensors |= {f"{prefix}{name}": t.contiguous() for name, t in part.tensors.items()}
        tensors |= {f"{prefix}diagnostics.{name}": t.contiguous() for name, t in part.rows.items()}
    response = dumps(answer.whole([part.headed for part in answer.parts])).decode()
    return save(tensors, {"response": response})
