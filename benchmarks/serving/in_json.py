"""Requests in JSON: nested lists as most servers take them, and this service's documents."""

import json
from typing import Any

import numpy as np
import orjson

from benchmarks.peers.attend import FIGURES
from benchmarks.serving.cases import SEED, Array, Case, inputs
from benchmarks.serving.requests import Answer, Request

JSON = {"Content-Type": "application/json", "Accept": "application/json"}
_TOO_LARGE = 413


def lists(case: Case, path: str) -> Request:
    """query, key, value and weights; or a seed and the sizes."""
    return Request(path, _dumps(_given(case)), JSON, _lists_read)


def _given(case: Case) -> dict[str, Any]:
    if case.seeded:
        sizes = zip(("heads", "queries", "keys", "dim"), case.shape[1:], strict=True)
        return {"seed": SEED, **dict(sizes)}
    return {**inputs(case), "weights": case.weights}


def _lists_read(answer: Answer) -> dict[str, Array]:
    found = orjson.loads(answer.body)
    return {name: np.array(value, np.float32) for name, value in found.items() if value is not None}


def include(case: Case) -> list[str]:
    """What this service is asked for."""
    return ["output", *(["weights"] if case.weights else []), "diagnostics"]


def service(case: Case) -> Request:
    """POST /v1/attention; what is over the limit of JSON is told of the binary encodings."""
    tensors: dict[str, Any] = {"kind": "tensors", **inputs(case)}
    if case.seeded:
        sizes = zip(("heads", "query_length", "key_length", "d_k"), case.shape[1:], strict=True)
        tensors = {"kind": "seeded", "seed": SEED, **dict(sizes)}
    body = _dumps({"inputs": tensors, "include": include(case)})
    if case.name == "L":
        return Request("/v1/attention", body, JSON, None, expects=_TOO_LARGE)
    return Request("/v1/attention", body, JSON, _service_read)


def _service_read(answer: Answer) -> dict[str, Array]:
    found = orjson.loads(answer.body)
    return tensors_and_means(found, {n: found[n] for n in ("output", "weights") if n in found})


def tensors_and_means(document: dict[str, Any], tensors: dict[str, Any]) -> dict[str, Array]:
    """Of this service's answer: its tensors, and the means over the rows of each head."""
    means = {name: document["diagnostics"][name]["mean"] for name in FIGURES}
    return {name: np.array(value, np.float32) for name, value in (tensors | means).items()}


def _dumps(document: dict[str, Any]) -> bytes:
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def compact(document: dict[str, Any]) -> bytes:
    """A small document."""
    return json.dumps(document, separators=(",", ":")).encode()
