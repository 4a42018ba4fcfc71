"""Tensors in and answers out, beside the usual ways to read and write them in Python.

`python -m benchmarks.wire [--rounds N] [--write]` reads and writes M of the service's comparison:
query, key and value of 2×8×128×64 (393,216 numbers), and the answer with their output.
"""

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import orjson
import torch
from pydantic import BaseModel
from safetensors.torch import load, save

from benchmarks.compare import ROUNDS, interleave, machine, ratio
from benchmarks.results import Row, growing, note, parser
from benchmarks.serving.cases import CASES, Array, inputs
from schemas.attention import AttentionRequest
from service.attention.native import library
from service.attention.native.library import Native
from service.attention.workers import Workers
from service.encodings import JSON, SAFETENSORS
from service.job import decode, prepare, run, write
from service.runtime import Runtime
from service.settings import Settings

CASE = next(case for case in CASES if case.name == "M")
_SETTINGS = Settings()
_INCLUDE = ["output", "diagnostics"]
_USUAL = "json.loads and torch.tensor"
_WRITTEN = "tolist and json.dumps"
Ways = Mapping[str, Callable[[], object]]
Nested = list[list[list[list[float]]]]


class _Typed(BaseModel):
    """A request as FastAPI's own documentation would declare it."""

    query: Nested
    key: Nested
    value: Nested


def readers(tensors: dict[str, Array]) -> Ways:
    """From a body to three tensors; what is this service's is validated and planned too."""
    texts = orjson.dumps(tensors, option=orjson.OPT_SERIALIZE_NUMPY)
    nested = _body(tensors)
    coded = {
        n: {"shape": t.shape, "data": base64.b64encode(t).decode()} for n, t in tensors.items()
    }
    with_base64 = _body(coded)
    file = save({name: torch.from_numpy(t) for name, t in tensors.items()})

    def own(body: bytes, encoding: str = JSON) -> object:
        return decode(AttentionRequest, bytearray(body), encoding, None, _SETTINGS)

    def without_library() -> object:
        with _lists():
            return own(nested)

    def typed() -> list[torch.Tensor]:
        found = _Typed.model_validate_json(texts)
        return [torch.tensor(part) for part in (found.query, found.key, found.value)]

    return {
        "this service, JSON": lambda: own(nested),
        "this service, JSON, without the compiled library": without_library,
        "this service, base64 in JSON": lambda: own(with_base64),
        "this service, safetensors": lambda: own(file, SAFETENSORS),
        _USUAL: lambda: [torch.tensor(part) for part in json.loads(texts).values()],
        "orjson.loads and numpy": lambda: [
            np.array(part, np.float32) for part in orjson.loads(texts).values()
        ],
        "pydantic, typed nested lists, and torch.tensor": typed,
        "safetensors.torch.load": lambda: load(file),
    }


def _body(tensors: Mapping[str, Any]) -> bytes:
    document = {"inputs": {"kind": "tensors", **tensors}, "include": _INCLUDE}
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


@contextmanager
def _lists() -> Iterator[None]:
    """Numbers through lists, as on a machine without a compiler."""
    found = library.available

    def absent() -> Native | None:
        return None

    library.available = absent
    try:
        yield
    finally:
        library.available = found


def writers(tensors: dict[str, Array]) -> Ways:
    """From what was computed to the bytes of an answer, figures of each head included."""
    runtime = Runtime(torch.device("cpu"), Workers(1))
    ways: dict[str, Callable[[], object]] = {}
    for name, accept, how in (
        ("JSON", JSON, "nested"),
        ("base64 in JSON", JSON, "base64"),
        ("safetensors", SAFETENSORS, "nested"),
    ):
        asked = {"inputs": {"kind": "tensors", **tensors}, "include": _INCLUDE}
        body = orjson.dumps({**asked, "tensor_format": how}, option=orjson.OPT_SERIALIZE_NUMPY)
        job = prepare(
            bytearray(body),
            encoding=JSON,
            accept=accept,
            request=None,
            settings=_SETTINGS,
            threads=1,
        )
        found = run(job, runtime)
        ways[f"this service, {name}"] = lambda job=job, found=found: write(job, found, {}).pieces
    output = found[0][1].tensors["output"]
    return {
        **ways,
        _WRITTEN: lambda: json.dumps({"output": output.tolist()}),
        "orjson.dumps of the array": lambda: orjson.dumps(
            {"output": output.numpy()}, option=orjson.OPT_SERIALIZE_NUMPY
        ),
        "safetensors.torch.save": lambda: save({"output": output}),
    }


def rows(ways: Ways, usual: str, rounds: int) -> Iterator[Row]:
    """Each way's best time, and how many times as fast as the usual one it is."""
    seconds = interleave(ways, rounds)
    for name, times in seconds.items():
        yield name, f"{min(times) * 1e3:.2f} ms", str(ratio(seconds[usual], times))


def main() -> None:
    """Print the tables."""
    asked = parser("wire", str(__doc__), rounds=ROUNDS).parse_args()
    tensors, spread = inputs(CASE), f"best of {asked.rounds} interleaved rounds, on one thread"
    tables = {
        "wire, read": growing(
            f"Reading query, key and value of 2×8×128×64 (393,216 numbers): {spread} "
            "(`python -m benchmarks.wire`). The service's own time includes its validation.",
            machine(),
            ("way", "time", f"times as fast as {_USUAL}"),
            rows(readers(tensors), _USUAL, asked.rounds),
        ),
        "wire, written": growing(
            f"Writing the answer with their output (131,072 numbers): {spread}. The service's own "
            "has the figures of each head and the verdict beside it.",
            machine(),
            ("way", "time", f"times as fast as {_WRITTEN}"),
            rows(writers(tensors), _WRITTEN, asked.rounds),
        ),
    }
    if asked.write:
        note(tables)


if __name__ == "__main__":
    main()
