"""Requests in bytes: safetensors, raw, files in multipart."""

import io
import json
from urllib.parse import quote

import numpy as np
import safetensors.numpy

from benchmarks.peers.attend import FIGURES
from benchmarks.serving.cases import Array, Case, inputs
from benchmarks.serving.in_json import compact, include, tensors_and_means
from benchmarks.serving.requests import Answer, Request

_SAFETENSORS = "application/x-safetensors"
_RAW = {"Content-Type": "application/octet-stream", "Accept": "*/*"}
_BOUNDARY = "----benchmark"


def safetensors_file(case: Case) -> Request:
    """POST /v1/attention with a file of tensors, the rest in the query string."""
    asked = quote(compact({"include": include(case)}))
    headers = {"Content-Type": _SAFETENSORS, "Accept": _SAFETENSORS}
    body = safetensors.numpy.save(inputs(case))
    return Request(f"/v1/attention?request={asked}", body, headers, _file_read)


def _file_read(answer: Answer) -> dict[str, Array]:
    length = int.from_bytes(answer.body[:8], "little")
    header = json.loads(answer.body[8 : 8 + length])
    document = json.loads(header["__metadata__"]["response"])
    return tensors_and_means(document, safetensors.numpy.load(answer.body))


def raw(case: Case, path: str) -> Request:
    """Query, key and value one after the other, their sizes in the query string."""
    body = b"".join(array.tobytes() for array in inputs(case).values())
    shape, weights = ",".join(map(str, case.shape)), str(case.weights).lower()
    asked = f"{path}?shape={shape}&weights={weights}"
    return Request(asked, body, _RAW, lambda answer: _split(case, answer.body))


def _split(case: Case, body: bytes) -> dict[str, Array]:
    rows = (case.batch, case.heads, case.queries)
    shapes: dict[str, tuple[int, ...]] = {"output": (*rows, case.dim)}
    shapes |= {"weights": (*rows, case.keys)} if case.weights else {}
    shapes |= dict.fromkeys(FIGURES, rows[:2])
    parts = np.split(np.frombuffer(body, np.float32), np.cumsum([*map(np.prod, shapes.values())]))
    named = zip(shapes.items(), parts, strict=False)
    return {name: part.reshape(shape) for (name, shape), part in named}


def nothing(case: Case) -> Request:
    """The bytes of the raw request, and as many zeros back as its answer has."""
    request = raw(case, "/")
    figures = len(FIGURES) * case.batch * case.heads
    each = case.dim + (case.keys if case.weights else 0)
    size = 4 * (figures + case.batch * case.heads * case.queries * each)
    return Request(f"/?{size}", b"" if case.seeded else request.body, _RAW, None)


def files(case: Case, path: str) -> Request:
    """Three arrays as files of a form, an archive of arrays back."""
    parts = []
    for name, array in inputs(case).items():
        file = io.BytesIO()
        np.save(file, array)
        head = (
            f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; '
            f'filename="{name}.npy"\r\nContent-Type: application/octet-stream\r\n\r\n'
        )
        parts.append(head.encode() + file.getvalue() + b"\r\n")
    body = b"".join(parts) + f"--{_BOUNDARY}--\r\n".encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}", "Accept": "*/*"}
    return Request(path, body, headers, lambda answer: dict(np.load(io.BytesIO(answer.body))))
