"""How an inference is asked for and answered: JSON, bytes, ids, versions, timeouts, batches."""

import asyncio
import json
import threading

import httpx
import pytest
import torch

from service.api import computing, open_inference_infer
from service.app import create_app
from service.settings import Settings
from tests.builders import normal, same_bytes
from tests.inference import (
    INFER,
    LENGTH,
    MODEL,
    as_json,
    asked,
    framed,
    infer_path,
    inference,
    outputs_of,
)
from tests.problems import problem_of
from tests.waiting import until

pytestmark = pytest.mark.anyio
QUERY = normal(2, 3, 5, 8)
LENGTHS = torch.tensor([5, 2])


async def answer_to(client, body, headers=None, path=INFER):
    answer = await client.post(path, content=body, headers=headers)
    assert answer.status_code == 200, answer.text[:500]
    return answer


@pytest.mark.parametrize("as_text", [(), ("query",), ("key_lengths",), ("query", "key_lengths")])
@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
async def test_json_and_bytes_mix(client, as_text, binary, dtype):
    """Any input may be JSON, any may be bytes, and so may any output: the numbers are the same."""
    tensors = {"query": QUERY.to(dtype), "key_lengths": LENGTHS}
    names = ("output", "entropy")
    body, headers = inference(tensors, as_text=as_text, outputs=names, binary=binary)
    found = await asked(client, MODEL, body, headers)
    expected = await asked(client, MODEL, *inference(tensors, outputs=names))
    for name in names:
        assert same_bytes(found[name], expected[name])


async def test_outputs_are_json_or_bytes_one_by_one(client):
    """binary_data of an output wins over binary_data_output of the request, in any order."""
    parameters = {"binary_data_output": True}
    body, headers = inference({"query": QUERY}, parameters=parameters)
    document = json.loads(body[: int(headers[LENGTH])])
    document["outputs"] = [
        {"name": "entropy", "parameters": {"binary_data": False}},
        {"name": "output"},
        {"name": "lse", "parameters": {"binary_data": False}},
        {"name": "weights", "parameters": {"binary_data": True}},
    ]
    text = json.dumps(document).encode()
    behind = body[int(headers[LENGTH]) :]
    answer = await answer_to(client, *framed(text, behind))
    told = json.loads(answer.content[: int(answer.headers[LENGTH])])
    assert [("data" in output) for output in told["outputs"]] == [True, False, True, False]
    assert list(outputs_of(answer.content, answer.headers)) == [
        "entropy", "output", "lse", "weights",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "data",
    [[1, 0, 0, 2.5], [[1, 0], [0, 2.5]], [[1.0, 0.0], [0, 25e-1]]],
)
async def test_data_is_flat_or_nested(client, data):
    """Elements come in one list or in lists of lists, as the protocol allows."""
    query = {"name": "query", "shape": [2, 2], "datatype": "FP32", "data": data}
    found = await asked(client, MODEL, json.dumps({"inputs": [query]}).encode(), {})
    given = {"query": torch.tensor([[1, 0], [0, 2.5]])}
    assert same_bytes(found["output"], (await asked(client, MODEL, *inference(given)))["output"])


async def test_null_in_a_bias_is_minus_infinity(client):
    """As in /v1, since JSON has no infinity; its answers write null for what is not finite."""
    bias = {"name": "mask_bias", "shape": [1, 2], "datatype": "FP32", "data": [0, None]}
    document = {
        "inputs": [as_json("query", torch.eye(2)), bias],
        "outputs": [{"name": "weights"}, {"name": "logits"}, {"name": "logit_gap"}],
    }
    answer = (await answer_to(client, json.dumps(document))).json()
    assert [output["data"] for output in answer["outputs"]] == [
        [1.0, 0.0, 1.0, 0.0],
        [pytest.approx(0.5**0.5), None, 0.0, None],
        [None, None],
    ]


async def test_data_in_an_answer_is_flat(client):
    """The shape says how it is nested; large outputs are whole too."""
    query = normal(1, 2, 400, 4)
    body, headers = inference({"query": query}, outputs=["weights"], binary=False)
    answer = await answer_to(client, body, headers)
    assert LENGTH not in answer.headers
    assert answer.headers["content-type"] == "application/json"
    (output,) = answer.json()["outputs"]
    assert output["shape"] == [1, 2, 400, 400]
    assert len(output["data"]) == 320_000
    expected = await asked(client, MODEL, *inference({"query": query}, outputs=["weights"]))
    assert same_bytes(outputs_of(answer.content, {})["weights"], expected["weights"])


@pytest.mark.parametrize("padding", range(9))
async def test_bytes_may_begin_anywhere(client, padding):
    """Clients do not align their bytes; wherever they begin, the numbers are the same."""
    tensors = {"query": QUERY.double(), "mask_allowed": normal(5, 5) > -1, "key_lengths": LENGTHS}
    found = await asked(client, MODEL, *inference(tensors, padding=padding))
    expected = await asked(client, MODEL, *inference(tensors, as_text=tensors))
    assert same_bytes(found["output"], expected["output"])


@pytest.mark.parametrize("identity", ["", "7", "a-longer-id" * 50, 'é"\\\u2028'])
async def test_bytes_of_an_answer_are_aligned(client, identity):
    """The document is padded with spaces to a multiple of 64 bytes, and tensors are dense."""
    body, headers = inference({"query": QUERY}, outputs=["output", "lse"], id=identity)
    answer = await answer_to(client, body, headers)
    length = int(answer.headers[LENGTH])
    assert length % 64 == 0
    assert answer.headers["content-type"] == "application/octet-stream"
    assert len(answer.content) == length + 4 * (QUERY.numel() + 2 * 3 * 5)
    assert json.loads(answer.content[:length])["outputs"][0]["parameters"] == {
        "binary_data_size": 4 * QUERY.numel()
    }


@pytest.mark.parametrize(("given", "told"), [("42", "42"), ("x" * 1024, "x" * 1024), ("", None),
                                             (None, None), ("\ud83d\ude00", "😀")])  # fmt: skip
async def test_an_id_comes_back(client, given, told):
    """The answer has the request's id, and none where there was none."""
    document = {"id": given, "inputs": [as_json("query", torch.eye(2))]}
    answer = (await answer_to(client, json.dumps(document))).json()
    assert answer.get("id") == told
    assert ("id" in answer) is (told is not None)


async def test_null_is_absent(client):
    """Clients that write every field they have are understood."""
    query = {**as_json("query", torch.eye(2)), "parameters": None}
    document = {"id": None, "parameters": None, "inputs": [query], "outputs": None}
    answer = (await answer_to(client, json.dumps(document))).json()
    assert [output["name"] for output in answer["outputs"]] == ["output"]


@pytest.mark.parametrize("version", [None, "1"])
async def test_a_version_may_be_named(client, version):
    """Version 1 is the only one, and every answer says so."""
    document = {"inputs": [as_json("query", torch.eye(2))]}
    path = infer_path("additive", version)
    answer = (await answer_to(client, json.dumps(document), path=path)).json()
    assert (answer["model_name"], answer["model_version"]) == ("additive", "1")


@pytest.mark.parametrize("kind", [None, "application/json", "application/octet-stream", "text/html",
                                  "application/x-www-form-urlencoded", "no type"])  # fmt: skip
async def test_the_content_type_does_not_matter(client, kind):
    """The protocol's clients send none, or the wrong one."""
    body, headers = inference({"query": QUERY})
    named = {} if kind is None else {"content-type": kind}
    found = await asked(client, MODEL, body, {**headers, **named, "accept": "text/html"})
    assert found["output"].shape == QUERY.shape


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
async def test_half_precision_is_bytes_only(client, dtype):
    """In, out and both: JSON has no such numbers, and the error says how to ask."""
    body, headers = inference({"query": QUERY.to(dtype)}, outputs=["output"], binary=False)
    detail = problem_of(await client.post(INFER, content=body, headers=headers), 400)["detail"]
    assert "binary_data" in detail
    body, headers = inference({"query": QUERY.to(dtype)}, outputs=["lse"], binary=False)
    assert (await asked(client, MODEL, body, headers))["lse"].dtype == torch.float32
    body, headers = inference({"query": QUERY.to(dtype)}, as_text=["query"])
    assert "as bytes only" in problem_of(await client.post(INFER, content=body), 400)["detail"]


async def test_a_cast_decides_how_outputs_are_sent(client):
    """What counts is the dtype of the answer, not of the inputs."""
    parameters = {"dtype": "float32", "binary_data_output": False}
    body, headers = inference({"query": QUERY.half()}, binary=False, parameters=parameters)
    assert (await asked(client, MODEL, body, headers))["output"].dtype == torch.float32


@pytest.mark.parametrize("microseconds", [1, 1000])
async def test_a_timeout_ends_the_wait(client, microseconds):
    """Microseconds from the arrival of the request; then it is 504, naming the time."""
    parameters = {"seed": 0, "query_length": 2048, "timeout": microseconds}
    answer = await client.post(INFER, json={"parameters": parameters})
    assert f"{microseconds / 1e6:g} s" in problem_of(answer, 504)["detail"]


@pytest.mark.parametrize("microseconds", [0, 10**8, 2**63])
async def test_a_long_timeout_and_none_are_the_settings(client, microseconds):
    """0 is no timeout of the caller's, and none is longer than the setting."""
    parameters = {"seed": 0, "timeout": microseconds}
    answer = await client.post(INFER, json={"parameters": parameters})
    assert answer.status_code == 200


async def test_the_sooner_of_header_and_parameter_counts(client):
    """X-Request-Timeout-Ms holds here too."""
    document = {"parameters": {"seed": 0, "query_length": 4096, "timeout": 10**8}}
    answer = await client.post(INFER, json=document, headers={"X-Request-Timeout-Ms": "1"})
    assert "0.001 s" in problem_of(answer, 504)["detail"]


async def test_a_timeout_covers_the_writing_too(client, monkeypatch):
    """The parameter bounds the whole inference, not only its computation."""
    release = threading.Event()
    monkeypatch.setattr(open_inference_infer, "_written", lambda *_: release.wait(30))
    document = {"parameters": {"seed": 0, "timeout": 2_000_000}}
    try:
        answer = await client.post(INFER, json=document)
    finally:
        release.set()
    assert "2 s" in problem_of(answer, 504)["detail"]


async def test_priority_is_taken_and_ignored(client):
    """As Triton does where no priorities are configured."""
    answer = await client.post(INFER, json={"parameters": {"seed": 0, "priority": 3}})
    assert answer.status_code == 200


async def test_equal_inferences_are_computed_together(client, monkeypatch):
    """What waits with an equal plan shares a computation, and statistics count it once."""
    gate, run, sizes = threading.Event(), computing.run_together, []

    def held(together, runtime):
        sizes.append(len(together))
        assert gate.wait(30)
        return run(together, runtime)

    monkeypatch.setattr(computing, "run_together", held)
    engine = client._transport.app.state.shared.engine
    documents = [{"parameters": {"seed": seed}} for seed in range(4)]
    tasks = [asyncio.create_task(client.post(INFER, json=documents[0]))]
    await until(lambda: sizes == [1])
    tasks += [asyncio.create_task(client.post(INFER, json=d)) for d in documents[1:]]
    (computer,) = engine._computers.values()
    await until(lambda: len(computer.waiting) == 3)
    gate.set()
    together = [(await task).json() for task in tasks]
    assert sizes == [1, 3]
    assert together == [(await client.post(INFER, json=d)).json() for d in documents]
    (found,) = (await client.get(f"/v2/models/{MODEL}/stats")).json()["model_stats"]
    assert (found["inference_count"], found["execution_count"]) == (8, 6)
    counts = {b["batch_size"]: b["compute_infer"]["count"] for b in found["batch_stats"]}
    assert counts == {1: 5, 3: 1}


async def test_before_the_start_and_after_the_end_it_is_503():
    """Inference and readiness say so; liveness, metadata and the index answer."""
    app = create_app(Settings())
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        for method, path in (
            ("GET", "/v2/health/ready"),
            ("GET", f"/v2/models/{MODEL}/ready"),
            ("POST", INFER),
        ):
            content = b"{}" if method == "POST" else None
            problem_of(await client.request(method, path, content=content), 503)
        assert (await client.get("/v2/health/live")).json() == {"live": True}
        assert (await client.get(f"/v2/models/{MODEL}")).status_code == 200
        index = (await client.post("/v2/repository/index")).json()
        assert {model["state"] for model in index} == {"UNAVAILABLE"}
        assert all(model["reason"] for model in index)


async def test_a_service_that_drains_is_not_ready_and_works_on(client):
    """Readiness and the index say so before inference ends."""
    client._transport.app.state.shared.engine.drain()
    for path in ("/v2/health/ready", f"/v2/models/{MODEL}/ready"):
        assert "stopping" in problem_of(await client.get(path), 503)["error"]
    assert (await client.post("/v2/repository/index", json={"ready": True})).json() == []
    await answer_to(client, *inference({"query": QUERY}))


async def test_nothing_stays_held(client):
    """Answers and errors alike give back what they held."""
    admission = client._transport.app.state.shared.engine.admission
    body, headers = inference({"query": QUERY})
    await answer_to(client, body, headers)
    for broken in (body[:-1], body[:5], body + b"x"):
        assert (await client.post(INFER, content=broken, headers=headers)).status_code == 400
    assert (admission.bytes_in_flight, admission.waiting) == (0, 0)
