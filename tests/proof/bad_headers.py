"""Requests whose headers, parameters, paths or methods are wrong, and those that ask too much."""

import json
from typing import Any

from service.encodings import JSON, SAFETENSORS
from tests.builders import normal
from tests.files import file_of
from tests.proof.originals import ATTENTION, COMPARISONS, ESTIMATE, SOFTMAX, SWEEPS
from tests.proof.rows import CANARY, INVALID, LIMIT, MALFORMED, Row, row

POSTS = (ATTENTION, ESTIMATE, SOFTMAX, SWEEPS, COMPARISONS)
GOOD = {SOFTMAX: b'{"logits":[1,2]}'}
FILE = file_of({"query": normal(2, 3)})
MEDIA, ACCEPT = ("unsupported-media-type", 415), ("not-acceptable", 406)
HEADERS: dict[str, tuple[str, tuple[str, int]]] = {
    "content-type: text/plain": ("content-type", MEDIA),
    "content-type: application/x-www-form-urlencoded": ("content-type", MEDIA),
    "content-type: multipart/form-data; boundary=x": ("content-type", MEDIA),
    "content-type: application/octet-stream": ("content-type", MEDIA),
    "content-type: application/json, text/plain": ("content-type", MEDIA),
    f"content-type: x/{CANARY}": ("content-type", MEDIA),
    "content-encoding: gzip": ("content-encoding", MEDIA),
    "content-encoding: br": ("content-encoding", MEDIA),
    f"content-encoding: identity, {CANARY}": ("content-encoding", MEDIA),
    "accept: text/html": ("accept", ACCEPT),
    "accept: image/webp": ("accept", ACCEPT),
    f"accept: x/{CANARY}": ("accept", ACCEPT),
    "accept: */*;q=0": ("accept", ACCEPT),
    f"accept: application/json;q={CANARY}": ("accept", ACCEPT),
    "content-length: -1": ("content-length", (MALFORMED, 400)),
    "content-length: 1e3": ("content-length", (MALFORMED, 400)),
    f"content-length: {CANARY}": ("content-length", (MALFORMED, 400)),
    "content-length: 9999999999999999999": ("content-length", (MALFORMED, 400)),
    "content-length: 999999999999": ("content-length", (LIMIT, 413)),
    "x-request-timeout-ms: 0": ("x-request-timeout-ms", (INVALID, 422)),
    "x-request-timeout-ms: -5": ("x-request-timeout-ms", (INVALID, 422)),
    "x-request-timeout-ms: 1.5": ("x-request-timeout-ms", (INVALID, 422)),
    "x-request-timeout-ms: 1e3": ("x-request-timeout-ms", (INVALID, 422)),
    "x-request-timeout-ms: 9999999999": ("x-request-timeout-ms", (INVALID, 422)),
    f"x-request-timeout-ms: {CANARY}": ("x-request-timeout-ms", (INVALID, 422)),
}
EVERYWHERE = ["content-type: text/plain", "accept: text/html", "x-request-timeout-ms: 0"]


def headed(said: str, path: str = ATTENTION) -> Row:
    """A good request with one header that is wrong."""
    name, (slug, status) = HEADERS[said]
    headers = {name: said.partition(": ")[2]}
    body = GOOD.get(path, b"{}")
    return row(said, body, slug, path=path, status=status, headers=headers)


PARAMETERS: list[tuple[str, str, dict[str, str]]] = [
    ("a parameter that means nothing", ATTENTION, {"requests": CANARY}),
    ("a parameter in capitals", ATTENTION, {"Batch": "0"}),
    ("a parameter of another route", SWEEPS, {"batch": "0"}),
    ("a parameter of softmax", SOFTMAX, {"head": "0"}),
    ("a parameter of the estimate", ESTIMATE, {"accept": CANARY}),
    ("a request beside JSON", ATTENTION, {"request": "{}"}),
    ("a view of JSON", COMPARISONS, {"theme": "dark"}),
    ("no such theme", ATTENTION, {"theme": CANARY}),
    ("a head of text", ATTENTION, {"head": CANARY}),
    ("a head of -1", ATTENTION, {"head": "-1"}),
    ("a batch of 10**40", ATTENTION, {"batch": "1" + "0" * 40}),
    ("a batch of nothing", ATTENTION, {"batch": ""}),
]
VIEWS = [("a head that is not there", {"head": "9"}), ("a batch that is not there", {"batch": "1"})]
REQUESTS = {
    "cut": ("{", MALFORMED),
    "of text": (CANARY, MALFORMED),
    "of nothing": ("", MALFORMED),
    "in a list": ("[{}]", MALFORMED),
    "with a key twice": ('{"mask":{},"mask":{}}', MALFORMED),
    "with a wrong field": (json.dumps({"mechanism": {"scale": CANARY}}), INVALID),
    "with inputs": ('{"inputs":{"kind":"seeded"}}', INVALID),
    "of 40 levels": ('{"mask":' * 40 + "1" + "}" * 40, LIMIT),
}
PLACES = [
    ("GET", "/nothing", 404, "not-found"),
    ("POST", "/v1", 404, "not-found"),
    ("POST", "/v1/attention/x", 404, "not-found"),
    ("GET", "/problems/nothing", 404, "not-found"),
    ("DELETE", "/%00", 404, "not-found"),
    ("GET", "/" + "x" * 5000, 404, "not-found"),
    ("GET", "/" + "%F0%9F%98%80" * 300, 404, "not-found"),
    *(("GET", path, 405, "method-not-allowed") for path in POSTS),
    ("PUT", ATTENTION, 405, "method-not-allowed"),
    ("TRACE", ATTENTION, 405, "method-not-allowed"),
    ("POST", "/v1/limits", 405, "method-not-allowed"),
    ("POST", "/health/live", 405, "method-not-allowed"),
]
SEEDED = {"kind": "seeded"}
TOO_MUCH: dict[str, tuple[str, dict[str, Any]]] = {
    "10**9 queries": (ATTENTION, {"inputs": {**SEEDED, "query_length": 10**9}}),
    "2**62 of everything": (
        ATTENTION,
        {"inputs": {**SEEDED, "batch": 2**62, "heads": 2**62, "query_length": 2**62, "d_k": 2**62}},
    ),
    "10**12 dimensions": (ATTENTION, {"inputs": {**SEEDED, "d_k": 10**12}}),
    "10**5 by 10**5 weights": (
        ATTENTION, {"inputs": {**SEEDED, "query_length": 10**5}, "include": ["weights"]}),
    "an answer of 270 MB": (
        ATTENTION, {"inputs": {**SEEDED, "query_length": 4_150, "d_k": 1}, "include": ["weights"]}),
    "memory for 25 million weights": (
        ATTENTION, {"inputs": {**SEEDED, "query_length": 5_000, "d_k": 1}, "include": ["weights"]}),
    "300 TFLOP": (
        ATTENTION, {"inputs": {**SEEDED, "query_length": 60_000, "d_k": 128, "heads": 4},
                    "include": ["diagnostics"]}),
    "memory for 2**26 rows": (
        ATTENTION, {"inputs": {**SEEDED, "query_length": 2**26, "key_length": 1, "d_k": 1},
                    "include": []}),
    "a hidden layer of 2**40": (
        ATTENTION, {"mechanism": {"kind": "additive", "parameters": {"hidden_dim": 2**40}}}),
    "a model of 2**30": (
        ATTENTION, {"mechanism": {"kind": "multi_head"}, "inputs": {**SEEDED, "model_dim": 2**30}}),
    "10**12 elements by shape": (
        ATTENTION,
        {"inputs": {"kind": "tensors", "query": {"shape": [10**6, 10**6], "data": ""}}},
    ),
    "a sweep of vast points": (SWEEPS, {"d_k": [2**30], "repeats": 64}),
    "a comparison of 10**9 queries": (COMPARISONS, {"inputs": {**SEEDED, "query_length": 10**9}}),
    "a recommendation at any price": (
        COMPARISONS,
        {"inputs": {**SEEDED, "query_length": 16_000, "heads": 8},
         "target": {"saturated_share_max": 0.1}}),
}  # fmt: skip
IMAGE = {"accept": "image/png"}
ROWS: list[Row] = [
    *(headed(said) for said in HEADERS),
    *(headed(said, path) for path in POSTS if path != ATTENTION for said in EVERYWHERE),
    row("a file for a sweep", FILE, "unsupported-media-type", path=SWEEPS, status=415,
        encoding=SAFETENSORS),
    *(row(name, GOOD.get(path, b"{}"), INVALID, path=path, query=query)
      for name, path, query in PARAMETERS),
    *(row(name, b"{}", INVALID, query=query, headers=IMAGE) for name, query in VIEWS),
    *(row(f"a request parameter {name}", FILE, slug, encoding=SAFETENSORS, query={"request": text})
      for name, (text, slug) in REQUESTS.items()),
    *(Row(f"{method} {path[:40]} is {status}", path, b"", status, slug, {}, {}, method)
      for method, path, status, slug in PLACES),
    *(row(name, document, LIMIT, path=path) for name, (path, document) in TOO_MUCH.items()),
    row("a file of 10**12 bytes", FILE, LIMIT, encoding=SAFETENSORS,
        headers={"content-length": "999999999999"}),
    row("JSON as a file", b"{}", MALFORMED, encoding=SAFETENSORS),
    row("a file as JSON", FILE, MALFORMED, encoding=JSON),
]  # fmt: skip
