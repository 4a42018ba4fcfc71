"""Bodies of the Open Inference Protocol, well formed or broken on purpose, without the service."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.files import raw

DATATYPES = {
    torch.float16: "FP16",
    torch.bfloat16: "BF16",
    torch.float32: "FP32",
    torch.float64: "FP64",
    torch.bool: "BOOL",
    torch.int32: "INT32",
    torch.int64: "INT64",
}
_DTYPES = {name: dtype for dtype, name in DATATYPES.items()}
LENGTH = "Inference-Header-Content-Length"
MODEL = "scaled_dot_product"
INFER = f"/v2/models/{MODEL}/infer"


def infer_path(model: str, version: str | None = None) -> str:
    place = "" if version is None else f"/versions/{version}"
    return f"/v2/models/{model}{place}/infer"


def described(name: str, tensor: Tensor) -> dict[str, Any]:
    """What the document says of a tensor, without its elements."""
    return {"name": name, "shape": list(tensor.shape), "datatype": DATATYPES[tensor.dtype]}


def as_json(name: str, tensor: Tensor) -> dict[str, Any]:
    return {**described(name, tensor), "data": tensor.reshape(-1).tolist()}


def as_bytes(name: str, tensor: Tensor) -> dict[str, Any]:
    return {**described(name, tensor), "parameters": {"binary_data_size": len(raw(tensor))}}


def inference(
    tensors: Mapping[str, Tensor],
    *,
    as_text: Iterable[str] = (),
    outputs: Iterable[str] = (),
    binary: bool = True,
    padding: int = 0,
    **fields: Any,
) -> tuple[bytes, dict[str, str]]:
    """The body and its headers: tensors as bytes, but for those named in `as_text`."""
    inputs = [(as_json if n in as_text else as_bytes)(n, t) for n, t in tensors.items()]
    document: dict[str, Any] = {"inputs": inputs, **fields}
    if outputs:
        asked = {"binary_data": binary}
        document["outputs"] = [{"name": name, "parameters": asked} for name in outputs]
    elif binary:
        document.setdefault("parameters", {})["binary_data_output"] = True
    text = json.dumps(document).encode() + b" " * padding
    return framed(text, *(raw(t) for n, t in tensors.items() if n not in as_text))


def framed(text: bytes, *behind: bytes) -> tuple[bytes, dict[str, str]]:
    """JSON and bytes behind it; the header says where they begin, where there are any."""
    return text + b"".join(behind), {LENGTH: str(len(text))} if behind else {}


def outputs_of(content: bytes, headers: Mapping[str, str]) -> dict[str, Tensor]:
    """The outputs of an answer by name, after any decompression."""
    length = headers.get(LENGTH)
    start = len(content) if length is None else int(length)
    found = {}
    for output in json.loads(content[:start])["outputs"]:
        dtype, shape = _DTYPES[output["datatype"]], output["shape"]
        if "data" in output:
            numbers = np.array(output["data"], dtype=np.float64)  # null becomes NaN
            found[output["name"]] = torch.from_numpy(numbers).to(dtype).view(shape)
            continue
        stop = start + output["parameters"]["binary_data_size"]
        elements = bytearray(content[start:stop])
        found[output["name"]] = torch.frombuffer(elements, dtype=dtype).view(shape)
        start = stop
    assert start == len(content), "bytes behind the last tensor"
    return found


async def asked(client: Any, model: str, body: bytes, headers: dict[str, str]) -> dict[str, Tensor]:
    """The outputs of an inference that succeeds."""
    answer = await client.post(infer_path(model), content=body, headers=headers)
    assert answer.status_code == 200, answer.text[:500]
    return outputs_of(answer.content, answer.headers)
