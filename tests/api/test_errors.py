import asyncio
import base64
import json
import logging
import math
import threading
import time
import tracemalloc

import httpx
import pytest
import torch

from service import errors
from service.api import attention, computing
from service.api.problems import STATUS, known_problems
from service.app import create_app
from service.limits import UNITS
from service.settings import Settings
from tests.builders import normal
from tests.files import file_of, file_with, framed, raw
from tests.problems import problem_of
from tests.server.attacks import ATTACKS
from tests.waiting import until

pytestmark = pytest.mark.anyio

PATH = "/v1/attention"
BINARY = "application/x-safetensors"
CANARY = "canary-5f3a9c1e-never-repeated"


def tensors(**given):
    return {"inputs": {"kind": "tensors", **given}}


def seeded(**given):
    return {"inputs": {"kind": "seeded", **given}}


def packed(tensor):
    """A tensor as base64, which can hold NaN and infinity."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    data = base64.b64encode(raw(tensor)).decode()
    return {"shape": list(tensor.shape), "dtype": dtype, "data": data}


def masked(**mask):
    """A request for 3 queries on 5 keys of two batch items, with a mask."""
    shape = {"kind": "seeded", "batch": 2, "query_length": 3, "key_length": 5, "d_k": 2}
    return {"inputs": shape, "mask": mask}


NAN, INFINITY = torch.tensor([[math.nan, 1.0]]), torch.tensor([[math.inf, 1.0]])
INVALID, SHAPE, MASK = "invalid-request", "shape-mismatch", "invalid-mask"
LOGITS = {"kind": "logits", "logits": [[1, 2]]}
WEIGHTS = {"kind": "weights", "weights": [[0.5, 0.5]]}
BAD_REQUESTS = [
    ({"unknown": 1}, INVALID, "/unknown"),
    ({"query_length": 1_000_000_000}, INVALID, "/query_length"),
    ({"mechanism": {"kind": "nope"}}, INVALID, "/mechanism/kind"),
    ({"mechanism": "scaled_dot_product"}, INVALID, "/mechanism"),
    ({"mechanism": None}, INVALID, "/mechanism"),
    ({"mechanism": {"scale": "1"}}, INVALID, "/mechanism/scale"),
    ({"mechanism": {"scale": True}}, INVALID, "/mechanism/scale"),
    ({"mechanism": {"softcap": 0}}, INVALID, "/mechanism/softcap"),
    ({"mechanism": {"softcap": -50}}, INVALID, "/mechanism/softcap"),
    ({"mechanism": {"normalizer": "hardmax"}}, INVALID, "/mechanism/normalizer"),
    ({"mechanism": {"temperature": 2}}, INVALID, "/mechanism/temperature"),
    ({"inputs": {"kind": "nope"}}, INVALID, "/inputs/kind"),
    ({"inputs": {"query_length": 3}}, INVALID, "/inputs/kind"),
    ({"inputs": {"kind": 1}}, INVALID, "/inputs/kind"),
    ({"inputs": {"kind": ["seeded"]}}, INVALID, "/inputs/kind"),
    ({"inputs": []}, INVALID, "/inputs"),
    ({"inputs": None}, INVALID, "/inputs"),
    (seeded(seed=-1), INVALID, "/inputs/seed"),
    (seeded(seed=2**63), INVALID, "/inputs/seed"),
    (seeded(seed=1.5), INVALID, "/inputs/seed"),
    (seeded(seed="0"), INVALID, "/inputs/seed"),
    (seeded(seed=True), INVALID, "/inputs/seed"),
    (seeded(batch=0), INVALID, "/inputs/batch"),
    (seeded(heads=-1), INVALID, "/inputs/heads"),
    (seeded(query_length=0), INVALID, "/inputs/query_length"),
    (seeded(query_length=2.0), INVALID, "/inputs/query_length"),
    (seeded(d_k=0), INVALID, "/inputs/d_k"),
    (seeded(mean=2e6), INVALID, "/inputs/mean"),
    (seeded(std=-1), INVALID, "/inputs/std"),
    (seeded(query=[[1]]), INVALID, "/inputs/query"),
    (seeded(heads=4, kv_heads=3), SHAPE, "/inputs"),
    (seeded(d_q=32), SHAPE, "/inputs"),
    (seeded(self_attention=True, key_length=3), SHAPE, "/inputs/self_attention"),
    (seeded(self_attention=1), INVALID, "/inputs/self_attention"),
    (tensors(), INVALID, "/inputs/query"),
    (tensors(query=None), INVALID, "/inputs/query"),
    (tensors(query=[[1, 2], [3]]), INVALID, "/inputs/query"),
    (tensors(query=[["1"]]), INVALID, "/inputs/query"),
    (tensors(query=[[True]]), INVALID, "/inputs/query"),
    (tensors(query=[[None]]), INVALID, "/inputs/query"),
    (tensors(query=[[1e39]]), INVALID, "/inputs/query"),
    (tensors(query=[[[[[1]]]]]), INVALID, "/inputs/query"),
    (tensors(query={"shape": [-1, 2], "data": []}), INVALID, "/inputs/query"),
    (tensors(query={"shape": [1, 2], "data": "AAAA"}), INVALID, "/inputs/query"),
    (tensors(query=[1, 2]), SHAPE, "/inputs/query"),
    (tensors(query=[]), SHAPE, "/inputs/query"),
    (tensors(query=[[]]), SHAPE, "/inputs"),
    (tensors(query=[[1]], key=[[[1]]]), SHAPE, "/inputs/key"),
    (tensors(query=[[1]], value=[[[1]]]), SHAPE, "/inputs/value"),
    (tensors(query=[[1, 2]], key=[[1]]), SHAPE, "/inputs"),
    (tensors(query=[[1]], key=[[1], [2]], value=[[1]]), SHAPE, "/inputs/value"),
    (tensors(query=[[[1]]], key=[[[1]], [[1]]]), SHAPE, "/inputs/key"),
    (tensors(query=[[[[1]], [[1]], [[1]]]], key=[[[[1]], [[1]]]]), SHAPE, "/inputs"),
    (tensors(query=packed(normal(1, 2)), key=packed(normal(1, 2).half())), "dtype-mismatch",
     "/inputs"),
    (tensors(query=packed(NAN)), "non-finite", "/inputs/query"),
    (tensors(query=[[1, 1]], key=packed(INFINITY)), "non-finite", "/inputs/key"),
    (tensors(query=[[1, 1]], value=packed(-INFINITY)), "non-finite", "/inputs/value"),
    ({"inputs": {"kind": "logits"}}, INVALID, "/inputs/logits"),
    ({"inputs": {"kind": "logits", "logits": "x"}}, INVALID, "/inputs/logits"),
    ({"inputs": {"kind": "logits", "logits": [[1]], "weights": [[1]]}}, INVALID,
     "/inputs/weights"),
    ({"inputs": {"kind": "logits", "logits": packed(NAN)}}, "non-finite", "/inputs/logits"),
    ({"inputs": {"kind": "logits", "logits": packed(INFINITY)}}, "non-finite", "/inputs/logits"),
    ({"inputs": {"kind": "logits", "logits": [1, 2]}}, SHAPE, "/inputs/logits"),
    ({"inputs": {**LOGITS, "value": [[[1]]]}}, SHAPE, "/inputs/value"),
    ({"inputs": {**LOGITS, "value": [[1]]}}, SHAPE, "/inputs/value"),
    ({"inputs": {"kind": "weights", "weights": [["x"]]}}, INVALID, "/inputs/weights"),
    ({"inputs": {"kind": "weights", "weights": [[-0.5, 1.5]]}}, INVALID, "/inputs/weights"),
    ({"inputs": {"kind": "weights", "weights": packed(NAN)}}, "non-finite", "/inputs/weights"),
    ({"inputs": {"kind": "weights", "weights": packed(NAN)},
      "compute": {"nonfinite": "propagate"}}, "non-finite", "/inputs/weights"),
    ({"inputs": LOGITS, "mechanism": {"scale": 2}}, INVALID, "/mechanism/scale"),
    ({"inputs": WEIGHTS, "mechanism": {"softcap": 2}}, INVALID, "/mechanism/softcap"),
    ({"inputs": WEIGHTS, "mask": {"bias": [[0, 0]]}}, INVALID, "/mask/bias"),
    (masked(forbid_below=-1), INVALID, "/mask/forbid_below"),
    (masked(causal="yes"), INVALID, "/mask/causal"),
    (masked(causal=True), INVALID, "/mask/causal"),
    (masked(causal="lower_right", offset=1), MASK, "/mask/offset"),
    (masked(offset=1), MASK, "/mask/offset"),
    (masked(causal="upper_left", offset=[1]), MASK, "/mask/offset"),
    (masked(causal="upper_left", offset=[[1, 1]]), MASK, "/mask/offset"),
    (masked(causal="upper_left", offset=1.5), INVALID, "/mask/offset"),
    (masked(causal="upper_left", offset=2**41), MASK, "/mask/offset"),
    (masked(causal="upper_left", offset=2**63), INVALID, "/mask/offset"),
    (masked(key_lengths=[6, 1]), MASK, "/mask/key_lengths"),
    (masked(key_lengths=[-1, 1]), MASK, "/mask/key_lengths"),
    (masked(key_lengths=[1]), MASK, "/mask/key_lengths"),
    (masked(key_lengths=3), MASK, "/mask/key_lengths"),
    (masked(key_lengths=[1.0, 1.0]), INVALID, "/mask/key_lengths"),
    (masked(window=3), INVALID, "/mask/window"),
    (masked(window={"left": -1}), INVALID, "/mask/window/left"),
    (masked(window={"left": 2**64 - 1}), INVALID, "/mask/window/left"),
    (masked(window={"left": 1.5}), INVALID, "/mask/window/left"),
    (masked(window={"size": 1}), INVALID, "/mask/window/size"),
    (masked(allowed=[[0, 1, 0, 1, 0]]), INVALID, "/mask/allowed"),
    (masked(allowed=[[None] * 5]), INVALID, "/mask/allowed"),
    (masked(allowed=[True] * 5), MASK, "/mask/allowed"),
    (masked(allowed=[[True] * 6]), MASK, "/mask/allowed"),
    (masked(allowed=[[True] * 5] * 2), MASK, "/mask/allowed"),
    (masked(bias=[["-inf"] * 5]), INVALID, "/mask/bias"),
    (masked(bias=[[[0]], [[0]], [[0]]]), MASK, "/mask/bias"),
    (masked(bias=packed(NAN)), "non-finite", "/mask/bias"),
    (masked(bias=packed(INFINITY)), "non-finite", "/mask/bias"),
    (masked(padding=[1]), INVALID, "/mask/padding"),
    ({"mask": None}, INVALID, "/mask"),
    ({"labels": {"query": ["a"]}}, INVALID, "/labels/query"),
    ({"labels": {"key": [1]}}, INVALID, "/labels/key/0"),
    ({"labels": {"key": ["a", "x" * 201]}}, INVALID, "/labels/key/1"),
    ({"labels": {"rows": ["a"]}}, INVALID, "/labels/rows"),
    ({"labels": ["a"]}, INVALID, "/labels"),
    ({"include": "output"}, INVALID, "/include"),
    ({"include": ["everything"]}, INVALID, "/include/0"),
    ({"include": ["output", 1]}, INVALID, "/include/1"),
    ({"include": [None]}, INVALID, "/include/0"),
    ({"include": [{}]}, INVALID, "/include/0/name"),
    ({"include": [{"name": "everything"}]}, INVALID, "/include/0/name"),
    ({"include": [{"name": "sparsity", "threshold": 0}]}, INVALID, "/include/0/threshold"),
    ({"include": [{"name": "sparsity", "threshold": 1}]}, INVALID, "/include/0/threshold"),
    ({"include": [{"name": "output", "threshold": 0.1}]}, INVALID, "/include/0/threshold"),
    ({"include": ["output"] * 33}, INVALID, "/include"),
    ({"compute": {"device": "tpu"}}, INVALID, "/compute/device"),
    ({"compute": {"device": "cuda:01"}}, INVALID, "/compute/device"),
    ({"compute": {"device": "cuda:128"}}, INVALID, "/compute/device"),
    ({"compute": {"device": "cuda:\u0663"}}, INVALID, "/compute/device"),
    ({"compute": {"device": "cuda:99"}}, "unavailable-device", "/compute/device"),
    ({"compute": {"dtype": "int8"}}, INVALID, "/compute/dtype"),
    ({"compute": {"nonfinite": "maybe"}}, INVALID, "/compute/nonfinite"),
    ({"compute": None}, INVALID, "/compute"),
    ({"tensor_format": "xml"}, INVALID, "/tensor_format"),
    ({"ignore_unknown": "yes"}, INVALID, "/ignore_unknown"),
    ({"a/b~c": 1}, INVALID, "/a~1b~0c"),
]  # fmt: skip


@pytest.mark.parametrize(("document", "slug", "pointer"), BAD_REQUESTS)
async def test_a_bad_request_says_what_and_where(client, document, slug, pointer):
    """Everything parseable but invalid is a 422 with its own type and a pointer to the place."""
    body = problem_of(await client.post(PATH, json=document), 422)
    assert body["type"] == f"/problems/{slug}"
    assert body["errors"][0]["pointer"] == pointer


QUERY = normal(2, 3)
BAD_FILES = [
    (file_of({"output": QUERY}), 422, "unknown-entry", None),
    (file_of({"query": QUERY, "weights": QUERY}), 422, "unknown-entry", None),
    (file_of({"key": QUERY}), 422, INVALID, "/inputs/query"),
    (file_of({"query": QUERY, "a.query": QUERY}), 422, INVALID, None),
    (file_of({"query": QUERY.bool()}), 422, INVALID, "/inputs/query"),
    (file_of({"query": QUERY.to(torch.uint8)}), 422, INVALID, "/query"),
    (file_with([("a/b~.query", "F8_E4M3", [1], b"\0")]), 422, INVALID, "/a~1b~0.query"),
    (file_of({"query": QUERY, "key": QUERY.half()}), 422, "dtype-mismatch", "/inputs"),
    (file_of({"query": NAN}), 422, "non-finite", "/inputs/query"),
    (file_of({"query": QUERY, "key_lengths": torch.tensor([9])}), 422, MASK, "/mask/key_lengths"),
    (file_of({"query": QUERY, "key_lengths": torch.tensor([1.0])}), 422, INVALID,
     "/mask/key_lengths"),
    (file_of({"query": QUERY}, {"request": '{"inputs":{"kind":"seeded"}}'}), 422, INVALID,
     "/inputs"),
    (file_of({"query": QUERY}, {"request": '{"mask":[]}'}), 422, INVALID, "/mask"),
    (file_of({"query": QUERY, "key_lengths": torch.tensor([1])}, {"request": '{"mask":[]}'}), 422,
     INVALID, "/mask"),
    (file_of({"query": QUERY}, {"request": "{"}), 400, "malformed-body", None),
    (file_of({"query": QUERY})[:-1], 400, "malformed-body", None),
    (framed(b"{"), 400, "malformed-body", None),
    (b"{}", 400, "malformed-body", None),
    (b"", 400, "malformed-body", None),
    (b"PK\x03\x04" + b"\0" * 30, 400, "malformed-body", None),
    (file_with([("query", "F32", [2**62] * 4, b"")]), 413, "limit-exceeded", None),
]  # fmt: skip


@pytest.mark.parametrize(("content", "status", "slug", "pointer"), BAD_FILES)
async def test_a_bad_file_says_what_and_where(client, content, status, slug, pointer):
    """The same holds for files: 400 where they cannot be read, 422 where they make no sense."""
    answer = await client.post(PATH, content=content, headers={"content-type": BINARY})
    body = problem_of(answer, status)
    assert body["type"] == f"/problems/{slug}"
    if pointer is not None:
        assert body["errors"][0]["pointer"] == pointer


@pytest.mark.parametrize(
    "content",
    [b"{", b"[]", b"null", b'"text"', b"3", b"{'a':1}", b'{"a":NaN}', b'{"a":1e999}',
     b'{"mask":{},"mask":{}}', b'{"a":1,"\\u0061":1}', b'{"a":"\\ud800"}', b"\xff\xfe{\0}\0",
     b"query=1", b"[" * 100_000],
)  # fmt: skip
async def test_what_is_not_json_is_400(client, content):
    """A body that cannot be read as a JSON object is malformed; NaN is explained."""
    headers = {"content-type": "application/json"}
    body = problem_of(await client.post(PATH, content=content, headers=headers), 400)
    assert body["type"] == "/problems/malformed-body"
    assert ("JSON has no NaN" in body["detail"]) is (b"NaN" in content)


async def test_the_request_parameter_goes_with_a_file(client):
    """A JSON body is the request, so the query parameter beside it is refused."""
    body = problem_of(await client.post(PATH, json={}, params={"request": "{}"}), 422)
    assert body["errors"][0]["pointer"] == "/request"
    answer = await client.post(
        PATH, content=b"", headers={"content-type": BINARY}, params={"request": "{"}
    )
    problem_of(answer, 400)


@pytest.mark.parametrize("name", ["Request", "requests", "heads", CANARY, "x" * 5000])
async def test_an_unknown_query_parameter_is_refused(client, name):
    """A mistyped parameter does not silently mean the default."""
    answer = await client.post(PATH, json={}, params={name: CANARY})
    assert "known are batch, head, request, theme" in problem_of(answer, 422)["detail"]
    assert CANARY not in answer.text.replace(f'"instance":"{PATH}"', "")


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/nothing"), ("GET", "/v1"), ("POST", "/v1/attention/x"), ("GET", "/problems/nothing"),
     ("GET", "/static-offline-docs/nothing.js"), ("GET", "/static-offline-docs/../app.py"),
     ("DELETE", "/%00"), ("GET", "/%F0%9F%98%80"), ("GET", "/" + "x" * 5000)],
)  # fmt: skip
async def test_an_unknown_path_is_404(client, method, path):
    """Nothing is served elsewhere, and the answer says so in the one shape."""
    body = problem_of(await client.request(method, path), 404)
    assert body["type"] == "/problems/not-found"
    assert len(body["instance"]) <= 256


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("GET", PATH, "POST"), ("PUT", PATH, "POST"), ("DELETE", PATH, "POST"),
     ("OPTIONS", PATH, "POST"), ("POST", "/v1/catalogue", "GET"), ("POST", "/v1/limits", "GET"),
     ("PATCH", "/v1/devices", "GET"), ("POST", "/health/live", "GET"),
     ("POST", "/problems/busy", "GET"), ("BREW", "/health/ready", "GET"),
     ("POST", "/openapi.json", "GET"), ("POST", "/docs", "GET")],
)  # fmt: skip
async def test_a_method_that_is_not_taken_is_405(client, method, path, allowed):
    """Another method is refused, and Allow says which ones are taken."""
    answer = await client.request(method, path)
    assert problem_of(answer, 405)["type"] == "/problems/method-not-allowed"
    assert allowed in answer.headers["allow"].split(", ")


@pytest.mark.parametrize("accept", ["text/html", "image/webp", "application/json;q=0", "a/b, c/d"])
async def test_an_encoding_not_written_here_is_406(client, accept):
    """406 says which encodings answers come in; the error itself is always problem+json."""
    answer = await client.post(PATH, json={}, headers={"accept": accept})
    detail = problem_of(answer, 406)["detail"]
    assert "application/json" in detail
    assert BINARY in detail


@pytest.mark.parametrize(
    ("content_type", "hint"),
    [("text/plain", False), ("application/octet-stream", False), ("multipart/form-data", False),
     ("application/x-www-form-urlencoded", True), ("json", False), (f"x/{CANARY}", False)],
)  # fmt: skip
async def test_an_encoding_not_read_here_is_415(client, content_type, hint):
    """415 says which encodings are read, and explains the type that curl sends unasked."""
    answer = await client.post(PATH, content=b"{}", headers={"content-type": content_type})
    detail = problem_of(answer, 415)["detail"]
    assert "application/json" in detail
    assert BINARY in detail
    assert ("curl" in detail) is hint
    assert CANARY not in answer.text


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "identity, gzip", "x"])
async def test_a_compressed_body_is_415(client, coding):
    """A Content-Encoding is refused rather than read as if it were none."""
    answer = await client.post(PATH, content=b"{}", headers={"content-encoding": coding})
    assert "Content-Encoding" in problem_of(answer, 415)["detail"]
    answer = await client.post(PATH, content=b"{}", headers={"content-encoding": "Identity"})
    assert answer.status_code == 200


@pytest.mark.parametrize("length", ["-1", "1e3", "x", "0x10", "1" * 19, "１"])
async def test_a_length_that_is_no_number_is_400(client, length):
    """A Content-Length that is not a number of bytes is malformed."""
    headers = {"content-length": length.encode()}
    problem_of(await client.post(PATH, content=in_chunks(b"{}", 1), headers=headers), 400)


async def in_chunks(content, size):
    for start in range(0, len(content), size):
        yield content[start : start + size]


GROUPS = file_of({f"l{i}.query": normal(2, 2) for i in range(3)})
LARGE = {"kind": "seeded", "query_length": 256, "d_k": 16}
OVER = [
    ("max_json_bytes", 40, {"labels": {"key": ["x" * 16] * 16}}, None),
    ("max_body_bytes", 40, None, file_of({"query": QUERY})),
    ("max_json_depth", 2, {"mask": {"window": {}}}, None),
    ("max_json_values", 4, {"labels": {"key": ["x"] * 16}}, None),
    ("max_elements", 100, {"inputs": LARGE}, None),
    ("max_elements", 3, tensors(query=[[1, 2], [3, 4]]), None),
    ("max_elements", 5, None, file_of({"query": QUERY})),
    ("max_peak_bytes", 2**20, {"inputs": LARGE}, None),
    ("max_answer_bytes", 2**16, {"inputs": LARGE}, None),
    ("max_flops", 10**5, {"inputs": LARGE}, None),
    ("max_groups", 2, None, GROUPS),
]


@pytest.mark.parametrize(
    ("settings", "document", "content"),
    [(Settings(**{field: most}), document, content) for field, most, document, content in OVER],
    ids=[f"{field}={most}" for field, most, _, _ in OVER],
)
async def test_what_is_over_a_limit_names_it(client, settings, document, content):
    """413 names the limit, the need and the setting, in words and as members."""
    (field,) = settings.model_fields_set
    if content is None:
        answer = await client.post(PATH, json=document)
    else:
        answer = await client.post(PATH, content=content, headers={"content-type": BINARY})
    body = problem_of(answer, 413)
    assert body["type"] == "/problems/limit-exceeded"
    assert body["limit"] == f"ATTENTION_{field.upper()}"
    assert body["limit"] in body["detail"]
    assert body["allowed"] == getattr(settings, field) < body["needed"]
    assert f"{body['needed']:,}" in body["detail"]
    assert f"{body['allowed']:,}" in body["detail"]


def test_every_limit_is_exceeded_somewhere():
    """No bound is left out of these tests."""
    elsewhere = {"max_in_flight_bytes", "max_queue", "deadline_s", "body_timeout_s"}
    elsewhere |= {"max_sweep_points", "hang_after_s", "max_decoded_bytes"}
    # On sockets: by the table of attacks, and by the other tests in its directory.
    elsewhere |= {attack.limit for attack in ATTACKS if attack.limit is not None}
    elsewhere |= {"max_connections", "send_timeout_s", "drain_delay_s", "grace_s"}
    assert {field for field, *_ in OVER} | elsewhere == set(UNITS)


@pytest.mark.parametrize("settings", [Settings(max_json_bytes=1000, max_body_bytes=2000)])
@pytest.mark.parametrize("size", [7, 1001, 5000])
async def test_a_body_without_length_is_counted(client, size):
    """A chunked body is refused as soon as it has too many bytes, and read where it has not."""
    longer = b'{"include":[]' + b" " * 2000 + b"}"
    body = problem_of(await client.post(PATH, content=in_chunks(longer, size)), 413)
    assert body["limit"] == "ATTENTION_MAX_JSON_BYTES"
    assert 1000 < body["needed"] <= 1000 + size
    assert "application/x-safetensors" in body["detail"]
    fits = b'{"include":[]' + b" " * 986 + b"}"
    assert len(fits) == 1000
    assert (await client.post(PATH, content=in_chunks(fits, size))).status_code == 200


@pytest.mark.parametrize("settings", [Settings(max_json_bytes=1000, max_body_bytes=2000)])
async def test_no_byte_is_invented(client):
    """A body shorter than declared is what arrived, and not filled up."""
    headers = {"content-type": "application/json", "content-length": "900"}
    answer = await client.post(PATH, content=in_chunks(b'{"include":[]}', 5), headers=headers)
    assert answer.status_code == 200


@pytest.mark.parametrize("settings", [Settings(max_json_bytes=1000, max_body_bytes=2000)])
async def test_a_declared_length_is_refused_unread(client):
    """A Content-Length over the limit is refused before a byte of the body is read."""

    async def never():
        pytest.fail("the body was read")
        yield b""

    for content_type, most in (("application/json", 1000), (BINARY, 2000)):
        headers = {"content-type": content_type, "content-length": str(10**17)}
        answer = await client.post(PATH, content=never(), headers=headers)
        body = problem_of(answer, 413)
        assert (body["allowed"], body["needed"]) == (most, 10**17)


async def test_a_large_json_body_is_told_of_safetensors(client, settings):
    """At the default limit one byte more is refused with the better way to send it."""
    body = b" " * (settings.max_json_bytes + 1)
    detail = problem_of(await client.post(PATH, content=body), 413)["detail"]
    assert "application/x-safetensors" in detail
    assert (await client.post(PATH, content=body[:-1])).status_code == 200


@pytest.mark.parametrize("settings", [Settings(body_timeout_s=0.05)], ids=["body_timeout_s=0.05"])
@pytest.mark.parametrize("first", [[], [b"{"]])
async def test_a_body_that_stalls_is_408(client, first):
    """A body that does not arrive in time is given up, naming the setting."""

    async def stalling():
        for chunk in first:
            yield chunk
        await asyncio.sleep(60)

    began = time.monotonic()
    body = problem_of(await client.post(PATH, content=stalling()), 408)
    assert time.monotonic() - began < 5
    assert "ATTENTION_BODY_TIMEOUT_S" in body["detail"]


def engine_of(client):
    return client._transport.app.state.shared.engine


@pytest.mark.parametrize("settings", [Settings(max_queue=2)], ids=["max_queue=2"])
async def test_a_full_queue_is_429(client, monkeypatch):
    """When as many analyses wait as may, the next is told to try again, and the others answer."""
    gate, run = threading.Event(), computing.run_together

    def held(*arguments):
        gate.wait(30)
        return run(*arguments)

    monkeypatch.setattr(computing, "run_together", held)
    waiting = [asyncio.create_task(client.post(PATH, json={"include": []})) for _ in range(2)]
    admission = engine_of(client).admission
    await until(lambda: admission.waiting == 2)
    answer = await client.post(PATH, json={})
    body = problem_of(answer, 429)
    assert body["type"] == "/problems/busy"
    assert "ATTENTION_MAX_QUEUE" in body["detail"]
    assert int(answer.headers["retry-after"]) >= 1
    gate.set()
    assert [answer.status_code for answer in await asyncio.gather(*waiting)] == [200, 200]
    assert admission.waiting == admission.bytes_in_flight == 0
    assert (await client.post(PATH, json={"include": []})).status_code == 200


async def test_too_many_bytes_in_flight_are_429(client, settings):
    """What would need more memory beside what is being served is told to try again."""
    admission = engine_of(client).admission
    other = admission.stay()
    other.hold(settings.max_in_flight_bytes - 10)
    answer = await client.post(PATH, json={})
    assert "ATTENTION_MAX_IN_FLIGHT_BYTES" in problem_of(answer, 429)["detail"]
    assert int(answer.headers["retry-after"]) >= 1
    other.close()
    assert (await client.post(PATH, json={})).status_code == 200
    assert admission.bytes_in_flight == 0


@pytest.mark.parametrize("settings", [Settings(max_body_bytes=1000, max_in_flight_bytes=2000)])
async def test_what_has_come_of_a_body_is_held(client):
    """Who declares much and sends nothing takes nothing from others; what comes is counted."""
    admission, seen = engine_of(client).admission, []

    async def looking():
        seen.append(admission.bytes_in_flight)
        yield b"x" * 500
        seen.append(admission.bytes_in_flight)
        yield b"x" * 500
        seen.append(admission.bytes_in_flight)

    for headers in ({}, {"content-length": "1000"}):
        answer = await client.post(
            PATH, content=looking(), headers={"content-type": BINARY, **headers}
        )
        problem_of(answer, 400)
    assert seen[0] == 0
    assert min(seen[1:3]) >= 500
    assert seen[:3] == seen[3:]
    assert admission.bytes_in_flight == 0


@pytest.mark.parametrize("settings", [Settings(max_in_flight_bytes=2**21)], ids=["2 MiB"])
async def test_what_does_not_fit_is_refused_unread_or_on_the_way(client):
    """A declared body that does not fit is not read; one without a length ends where it is full."""
    admission, read = engine_of(client).admission, []
    other = admission.stay()
    other.hold(2**20)

    async def many():
        for _ in range(100):
            read.append(1)
            yield b"x" * 2**16

    declared = {"content-type": BINARY, "content-length": str(100 * 2**16)}
    problem_of(await client.post(PATH, content=many(), headers=declared), 429)
    assert not read
    problem_of(await client.post(PATH, content=many(), headers={"content-type": BINARY}), 429)
    assert 16 <= len(read) < 100
    other.close()
    assert admission.bytes_in_flight == 0


async def test_memory_in_flight_is_given_back_after_an_error(client):
    """No refusal leaves anything held."""
    admission = engine_of(client).admission
    for document in ({"x": 1}, seeded(batch=10**9), masked(key_lengths=[9, 9])):
        assert (await client.post(PATH, json=document)).status_code in (413, 422)
        assert admission.waiting == admission.bytes_in_flight == 0


async def test_before_the_start_and_after_the_end_it_is_503():
    """A service that is not ready says so, to health and to work alike, and not as a fault."""
    app = create_app(Settings())
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:

        async def not_ready():
            for method, path in (("GET", "/health/ready"), ("POST", PATH)):
                answer = await client.request(method, path)
                assert problem_of(answer, 503)["type"] == "/problems/not-ready"
                assert int(answer.headers["retry-after"]) >= 1
            assert (await client.get("/health/live")).status_code == 200

        await not_ready()
        async with app.router.lifespan_context(app):
            assert (await client.get("/health/ready")).json() == {"status": "ok"}
        await not_ready()


@pytest.mark.parametrize("settings", [Settings(deadline_s=0.3)], ids=["deadline_s=0.3"])
async def test_the_deadline_is_504_and_ends_the_work(client):
    """An analysis past its deadline is given up, and soon the next one computes."""
    document = seeded(query_length=16_384, d_k=256) | {"include": ["diagnostics"]}
    began = time.monotonic()
    body = problem_of(await client.post(PATH, json=document), 504)
    assert body["type"] == "/problems/deadline-exceeded"
    assert "ATTENTION_DEADLINE_S" in body["detail"]
    assert time.monotonic() - began < 5
    statuses = []
    while 200 not in statuses and time.monotonic() - began < 10:
        statuses.append((await client.post(PATH, json={"include": []})).status_code)
    assert statuses[-1] == 200


@pytest.mark.parametrize("step", ["prepare", "run_together", "write"])
async def test_an_unexpected_error_is_500_and_tells_nothing(client, monkeypatch, caplog, step):
    """A fault of the service is logged with the request id; the caller sees only that id."""

    def broken(*_, **__):
        raise RuntimeError(CANARY)

    monkeypatch.setattr(computing if step == "run_together" else attention, step, broken)
    with caplog.at_level(logging.ERROR, "service"):
        answer = await client.post(PATH, json={}, headers={"X-Request-ID": "find-me"})
    body = problem_of(answer, 500)
    assert body["type"] == "/problems/internal-error"
    assert body["request_id"] == "find-me"
    assert CANARY not in answer.text
    assert "Traceback" not in answer.text
    assert "find-me" in caplog.text
    assert CANARY in caplog.text
    assert engine_of(client).admission.bytes_in_flight == 0


def subclasses(kind):
    return {found for child in kind.__subclasses__() for found in (child, *subclasses(child))}


def test_every_error_has_a_status_and_a_page():
    """Each class of error has its own type and status, and a meaning that can be looked up."""
    kinds = subclasses(errors.ServiceError)
    assert set(STATUS) == kinds
    slugs = [kind.slug for kind in kinds]
    assert len(set(slugs)) == len(slugs)
    assert set(slugs) < known_problems().keys()
    assert all(meaning for _, _, meaning in known_problems().values())


def test_the_tree_of_errors_is_drawn_whole():
    """The drawing in the module's docstring names every class."""
    drawn = {word for word in errors.__doc__.replace("─", " ").split() if word[0].isupper()}
    assert {kind.__name__ for kind in subclasses(errors.ServiceError)} <= drawn


HOSTILE = [
    "x" * 5000,
    "\x00\x1b[31m\x7f\u202e\u2028",
    "/~/~" * 40,
    '"\\' * 40,
    "😀" * 100,
    "\ufdd0\uffff\U0010ffff",
    "<script>alert(1)</script>",
    "%s%n{0}{detail}",
]


def printable(text):
    return all(character.isprintable() for character in text)


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize(
    "wrap", [lambda name: {name: 1}, lambda name: {"inputs": {"kind": "tensors", name: 1}}]
)
async def test_field_names_are_cut_and_escaped(client, name, wrap):
    """A hostile field name comes back cut at 64 characters, printable, as a JSON pointer."""
    body = problem_of(await client.post(PATH, json=wrap(name)), 422)
    for text in (body["detail"], *(f["pointer"] + f["detail"] for f in body["errors"])):
        assert printable(text)
    step = body["errors"][-1]["pointer"].rpartition("/")[2]
    shown = step.replace("~1", "/").replace("~0", "~")
    assert len(shown) <= 65
    assert shown[:60] == "".join(c if c.isprintable() else "\ufffd" for c in name[:60])


async def test_lone_surrogates_in_names_do_no_harm(client):
    """A file whose names have no UTF-8 form is refused in the one shape."""
    header = b'{"\\ud800":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    answer = await client.post(
        PATH, content=framed(header, b"\0" * 4), headers={"content-type": BINARY}
    )
    problem_of(answer, 400)


@pytest.mark.parametrize("fill", ["x", "😀", "\x01", '"', "\\", "/", "~", "\u202e"])
async def test_many_errors_stay_few_and_small(client, fill):
    """At most 20 errors are told, in at most 16 KiB, however many and long the names are."""
    crowd = {f"{i:02}{fill * 300}": i for i in range(60)}
    body = problem_of(await client.post(PATH, json=crowd), 422)
    assert len(body["errors"]) == 20
    assert "(59 more)" in body["detail"]
    body = problem_of(await client.post(PATH, json={"mask": crowd, "labels": crowd, **crowd}), 422)
    assert len(body["errors"]) == 20
    content = file_of({f"{i:02}{fill * 100}": torch.ones(1) for i in range(60)})
    answer = await client.post(PATH, content=content, headers={"content-type": BINARY})
    assert printable(problem_of(answer, 422)["detail"])


CANARIES = [
    {"mechanism": {"kind": CANARY}},
    {"mechanism": CANARY},
    {"mechanism": {"scale": CANARY}},
    {"mechanism": {"normalizer": CANARY}},
    {"inputs": {"kind": CANARY}},
    {"inputs": {"kind": [CANARY]}},
    {"inputs": {"kind": {"a": CANARY}}},
    {"inputs": CANARY},
    seeded(seed=CANARY),
    seeded(batch=CANARY),
    tensors(query=CANARY),
    tensors(query=[[CANARY]]),
    tensors(query=[[1], CANARY]),
    tensors(query={"shape": CANARY, "data": []}),
    tensors(query={"shape": [CANARY], "data": []}),
    tensors(query={"shape": [1, 1], "dtype": CANARY, "data": [1]}),
    tensors(query={"shape": [1, 1], "data": CANARY}),
    tensors(query={"shape": [1, 1], "data": [CANARY]}),
    tensors(query={"shape": [1, 1], "data": [1], "x": CANARY}),
    {"inputs": {"kind": "logits", "logits": [[CANARY]]}},
    {"inputs": {"kind": "weights", "weights": [[CANARY]]}},
    masked(causal=CANARY),
    masked(offset=CANARY),
    masked(offset=[CANARY]),
    masked(window=CANARY),
    masked(window={"left": CANARY}),
    masked(key_lengths=CANARY),
    masked(key_lengths=[CANARY]),
    masked(allowed=[[CANARY]]),
    masked(bias=[[CANARY]]),
    masked(forbid_below=CANARY),
    {"labels": {"query": CANARY}},
    {"labels": {"query": [CANARY]}},
    {"labels": {"query": [CANARY * 10]}},
    {"include": CANARY},
    {"include": [CANARY]},
    {"include": [[CANARY]]},
    {"include": [{"name": CANARY}]},
    {"include": [{"name": "sparsity", "threshold": CANARY}]},
    {"compute": {"device": CANARY}},
    {"compute": {"dtype": CANARY}},
    {"compute": {"nonfinite": CANARY}},
    {"tensor_format": CANARY},
    {"ignore_unknown": CANARY},
    {"unknown": CANARY},
]


@pytest.mark.parametrize("document", CANARIES)
async def test_the_callers_values_are_never_repeated(client, document):
    """No value of a request comes back in an error, in JSON or beside a file."""
    answer = await client.post(PATH, json=document)
    problem_of(answer, 422)
    told = answer.text + str(answer.headers)
    assert CANARY not in told
    assert CANARY[:12] not in told
    text = json.dumps(document)
    for content in (framed(b"{}"), file_of({"query": QUERY}, {"request": text})):
        answer = await client.post(
            PATH, content=content, headers={"content-type": BINARY}, params={"request": text}
        )
        assert answer.status_code == 422
        assert CANARY[:12] not in answer.text


async def test_headers_and_broken_text_are_not_repeated(client):
    """Neither a header's value nor a piece of a malformed body comes back."""
    sent = [
        {"accept": f"x/{CANARY}"},
        {"content-type": f"x/{CANARY}"},
        {"content-encoding": CANARY},
        {"x-request-id": f"{CANARY} {CANARY}"},
    ]
    for headers in sent:
        answer = await client.post(PATH, content=b'{"a":1}', headers=headers)
        assert answer.status_code >= 400
        assert CANARY not in answer.text + str(answer.headers)
    for content in (
        f'{{"{CANARY}',
        f'{{"a":"{CANARY}"',
        f"{CANARY}",
        f'{{"{CANARY}":1,"{CANARY}":1}}',
    ):
        answer = await client.post(PATH, content=content.encode())
        problem_of(answer, 400)
        assert CANARY not in answer.text


@pytest.mark.parametrize(
    "document",
    [
        seeded(query_length=10**9),
        seeded(query_length=10**9, key_length=10**9, include=[]),
        seeded(batch=2**63, heads=2**63, query_length=2**63, key_length=2**63, d_k=2**63),
        seeded(d_k=10**12, query_length=1),
        seeded(d_v=10**12, query_length=1),
        seeded(heads=10**9, kv_heads=10**9, query_length=1),
        seeded(query_length=1, key_length=10**10, d_k=1),
        tensors(query={"shape": [10**6, 10**6], "data": ""}),
        tensors(query={"shape": [2**63, 2**63, 2**63, 2**63], "dtype": "float64", "data": []}),
        {"include": ["weights"], **seeded(query_length=10**5)},
    ],
)
async def test_absurd_sizes_are_refused_at_once(client, monkeypatch, document):
    """A few bytes that ask for terabytes are refused before anything is allocated or computed."""
    document["inputs"].pop("include", None)
    await client.post(PATH, json={"include": []})
    monkeypatch.setattr(computing, "run_together", lambda *_: pytest.fail("it was computed"))
    monkeypatch.setattr(torch, "randn", lambda *_, **__: pytest.fail("it was drawn"))
    tracemalloc.start()
    began = time.monotonic()
    answer = await client.post(PATH, json=document)
    took = time.monotonic() - began
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    body = problem_of(answer, 413)
    assert body["needed"] > body["allowed"]
    assert took < 0.5
    assert peak < 2**20


BAD_LISTS = {
    "strings": b'{"inputs":{"kind":"tensors","query":[%s]}}' % b",".join([b'"a"'] * 1_000_000),
    "then a string": b'{"inputs":{"kind":"tensors","query":[%s,"a"]}}' % b",".join([b"1"] * 10**6),
    "objects": b'{"inputs":{"kind":"tensors","query":[%s]}}' % b", ".join([b"{}"] * 510_000),
    "ragged": b'{"inputs":{"kind":"tensors","query":[[1],%s]}}' % b", ".join([b"[]"] * 510_000),
    "flat": b'{"inputs":{"kind":"tensors","query":{"shape":[9],"data":[%s]}}}'
    % b",".join([b"1"] * 1_000_000),
    "labels": b'{"labels":{"query":[%s]}}' % b",".join([b"1"] * 1_000_000),
    "lengths": b'{"mask":{"key_lengths":[%s]}}' % b",".join([b"1.5"] * 1_000_000),
    "include": b'{"include":[%s]}' % b",".join([b'"a"'] * 1_000_000),
    "fields": b'{"mask":{%s}}' % b",".join(b'"%d":1' % i for i in range(400_000)),
}


@pytest.mark.parametrize("content", BAD_LISTS.values(), ids=BAD_LISTS)
async def test_a_long_bad_list_is_one_small_error(client, settings, content):
    """A list at the limits fails at its first bad element: quickly, and with one error."""
    assert 2_000_000 < len(content) <= settings.max_json_bytes
    began = time.monotonic()
    answer = await client.post(PATH, content=content)
    assert time.monotonic() - began < 5
    body = problem_of(answer, 422)
    assert len(body["errors"]) == 1
    assert len(answer.content) < 1000
