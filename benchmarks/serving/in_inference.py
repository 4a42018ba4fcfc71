"""Requests of the Open Inference Protocol with binary tensors: this service's and Triton's."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.peers.attend import FIGURES
from benchmarks.serving.cases import SEED, Array, Case, inputs
from benchmarks.serving.in_json import compact
from benchmarks.serving.requests import Answer, Request

_LENGTH = "Inference-Header-Content-Length"
_DTYPES = {"FP32": np.float32, "INT64": np.int64}


def service(case: Case) -> Request:
    """The model of scaled dot-product attention; its figures are of each row."""
    return _infer("scaled_dot_product", case, inputs(case))


def triton(case: Case) -> Request:
    """One of the three models that are bound there."""
    if not case.seeded:
        return _infer("attention" if case.weights else "without_weights", case, inputs(case))
    sizes = zip(("heads", "queries", "keys", "dim"), case.shape[1:], strict=True)
    numbers = {"seed": SEED, **dict(sizes)}
    return _infer("seeded", case, {n: np.array([[i]], np.int64) for n, i in numbers.items()})


def _infer(model: str, case: Case, tensors: Mapping[str, Any]) -> Request:
    names = ["output", *(["weights"] if case.weights else []), *FIGURES]
    datatypes = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}
    header = compact(
        {
            "inputs": [
                {
                    "name": name,
                    "shape": array.shape,
                    "datatype": datatypes[array.dtype],
                    "parameters": {"binary_data_size": array.nbytes},
                }
                for name, array in tensors.items()
            ],
            "outputs": [{"name": name, "parameters": {"binary_data": True}} for name in names],
        }
    )
    headers = {"Content-Type": "application/octet-stream", "Accept": "*/*"}
    body = header + b"".join(array.tobytes() for array in tensors.values())
    return Request(f"/v2/models/{model}/infer", body, headers | {_LENGTH: str(len(header))}, _read)


def _read(answer: Answer) -> dict[str, Array]:
    start = int(answer.headers[_LENGTH.lower()])
    found = {}
    for tensor in json.loads(answer.body[:start])["outputs"]:
        stop = start + tensor["parameters"]["binary_data_size"]
        flat = np.frombuffer(answer.body[start:stop], _DTYPES[tensor["datatype"]])
        found[tensor["name"]] = flat.reshape(tensor["shape"])
        start = stop
    return found
