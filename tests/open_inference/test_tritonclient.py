"""Triton's own client, unchanged, against a real server: every test with both of its faces."""

import asyncio
import gc
import gzip
import warnings
import zlib

import numpy as np
import pytest
import torch
import tritonclient.http as triton
from tritonclient.http import aio
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

from service.diagnostics import DIAGNOSTICS
from service.wire.open_inference_models import MODELS
from tests.builders import normal
from tests.server_process import running

# Of health the asyncio client reads the status alone: whether that leaves a connection open is a
# matter of how much of the answer has arrived.
UNREAD = ("ignore", "Unclosed connection", ResourceWarning)
pytestmark = [
    pytest.mark.sockets,
    pytest.mark.filterwarnings("ignore:Unclosed connection:ResourceWarning"),
]

MODEL = "scaled_dot_product"
QUERY = normal(2, 3, 5, 8, seed=1).numpy()
KEY = normal(2, 3, 7, 8, seed=2).numpy()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(tmp_path_factory.mktemp("triton") / "log", max_decoded_bytes=2**22) as server:
        yield server
    with warnings.catch_warnings():
        warnings.filterwarnings(*UNREAD)
        gc.collect()  # here, and not in a test that knows nothing of it


class Sync:
    """The client of threads and greenlets."""

    def __init__(self, port):
        self._address = f"127.0.0.1:{port}"

    def __call__(self, method, *arguments, **options):
        with triton.InferenceServerClient(self._address) as client:
            return getattr(client, method)(*arguments, **options)


class Asyncio:
    """The client of asyncio, which accepts gzip, deflate and br without being asked."""

    def __init__(self, port):
        self._address = f"127.0.0.1:{port}"

    def __call__(self, method, *arguments, **options):
        async def call():
            async with aio.InferenceServerClient(self._address) as client:
                return await getattr(client, method)(*arguments, **options)

        return asyncio.run(call())


@pytest.fixture(params=[Sync, Asyncio])
def client(request, server):
    return request.param(server.port)


def tensor(name, array, datatype="FP32", *, binary=True):
    """An input of the client's."""
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array.astype(triton_to_np_dtype(datatype)), binary_data=binary)
    return made


def output(name, *, binary=True):
    return triton.InferRequestedOutput(name, binary_data=binary)


def attention(query, key=None, value=None, **options):
    """The same by torch, in float64."""
    given = [torch.from_numpy(np.asarray(t, dtype=np.float64)) for t in (query, key, value)
             if t is not None]  # fmt: skip
    given += [given[-1]] * (3 - len(given))
    return torch.nn.functional.scaled_dot_product_attention(*given, **options).numpy()


def test_health(client):
    """Server, models and versions are live and ready; what does not exist is not."""
    assert client("is_server_live")
    assert client("is_server_ready")
    for model in MODELS:
        assert client("is_model_ready", model)
        assert client("is_model_ready", model, "1")
        assert not client("is_model_ready", model, "2")
    assert not client("is_model_ready", "nothing")


def test_metadata_and_config(client):
    """Of server and models, with a version or without."""
    server = client("get_server_metadata")
    assert server["name"] == "attention-analysis"
    assert "binary_tensor_data" in server["extensions"]
    for model in MODELS:
        metadata = client("get_model_metadata", model)
        assert metadata == client("get_model_metadata", model, "1")
        assert [t["name"] for t in metadata["inputs"]] == list(MODELS[model].inputs)
        config = client("get_model_config", model)
        assert config == client("get_model_config", model, "1")
        assert config["max_batch_size"] == 0


def test_the_repository_index(client):
    """Every model is ready; the client posts an empty body."""
    index = client("get_model_repository_index")
    assert [(m["name"], m["version"], m["state"]) for m in index] == [
        (model, "1", "READY") for model in MODELS
    ]


def test_statistics(client):
    """Of all models or one; they count what this client does."""
    before = client("get_inference_statistics", "additive", "1")["model_stats"][0]
    client("infer", "additive", [tensor("query", QUERY)])
    with pytest.raises(InferenceServerException):
        client("infer", "additive", [])
    after = client("get_inference_statistics", "additive")["model_stats"][0]
    assert after["inference_count"] == before["inference_count"] + 1
    for kind in ("success", "fail"):
        counts = [s["inference_stats"][kind]["count"] for s in (before, after)]
        assert counts[1] == counts[0] + 1
    every = client("get_inference_statistics")["model_stats"]
    assert [model["name"] for model in every] == list(MODELS)


def test_the_output_alone(client):
    """Without outputs the client asks for bytes, and gets `output`."""
    result = client("infer", MODEL, [tensor("query", QUERY), tensor("key", KEY)])
    assert [o["name"] for o in result.get_response()["outputs"]] == ["output"]
    assert result.get_output("output")["parameters"]["binary_data_size"] == QUERY.nbytes
    np.testing.assert_allclose(
        result.as_numpy("output"), attention(QUERY, KEY), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("query_binary", [True, False])
@pytest.mark.parametrize("key_binary", [True, False])
def test_json_and_bytes_mixed(client, query_binary, key_binary):
    """Inputs and outputs, each as the caller likes: the same numbers."""
    inputs = [
        tensor("query", QUERY, binary=query_binary),
        tensor("key", KEY, binary=key_binary),
        tensor("key_lengths", np.array([7, 4]), "INT64", binary=not key_binary),
        tensor("mask_allowed", np.tri(5, 7, 3) > 0, "BOOL", binary=not query_binary),
    ]
    outputs = [output("weights", binary=False), output("output"), output("entropy", binary=False)]
    result = client("infer", MODEL, inputs, outputs=outputs)
    assert [("data" in o) for o in result.get_response()["outputs"]] == [True, False, True]
    weights = result.as_numpy("weights")
    assert weights.shape == (2, 3, 5, 7)
    assert np.all(weights[1, :, :, 4:] == 0)
    assert np.all(weights[0, :, 0, 4:] == 0)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(result.as_numpy("output"), weights @ KEY, rtol=1e-4, atol=1e-5)
    surprise = -np.where(weights > 0, weights * np.log(np.maximum(weights, 1e-30)), 0)
    np.testing.assert_allclose(result.as_numpy("entropy"), surprise.sum(-1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("datatype", "tolerance"), [("FP16", 2e-3), ("BF16", 2e-2), ("FP32", 1e-5), ("FP64", 1e-12)]
)
def test_every_precision(client, datatype, tolerance):
    """Output and weights have the inputs' datatype, figures are FP32."""
    query = QUERY.astype(triton_to_np_dtype(datatype))
    outputs = [output("output"), output("weights"), output("lse")]
    result = client("infer", MODEL, [tensor("query", query, datatype)], outputs=outputs)
    told = {o["name"]: o["datatype"] for o in result.get_response()["outputs"]}
    assert told == {"output": datatype, "weights": datatype, "lse": "FP32"}
    found = result.as_numpy("output").astype(np.float64)
    expected = attention(query.astype(np.float64))
    assert np.abs(found - expected).max() < tolerance * 4
    assert result.as_numpy("lse").dtype == np.float32


@pytest.mark.parametrize("model", MODELS)
def test_every_model(client, model):
    """Each answers its output and every figure of its metadata at once, as perf_analyzer asks."""
    query = QUERY[:, 0] if model == "multi_head" else QUERY
    metadata = client("get_model_metadata", model)
    outputs = [output(t["name"]) for t in metadata["outputs"]]
    result = client("infer", model, [tensor("query", query)], outputs=outputs)
    for described in metadata["outputs"]:
        found = result.as_numpy(described["name"])
        assert found.ndim == len(described["shape"])
        assert found.dtype == np.float32
    assert result.as_numpy("output").shape == query.shape
    assert len(outputs) > len(DIAGNOSTICS) - 4


def test_parameters(client):
    """Flat and of any scalar kind; the same as the tensors that say it."""
    query = [tensor("query", QUERY)]
    causal = client("infer", MODEL, query, parameters={"causal": "lower_right", "scale": 0.5})
    np.testing.assert_allclose(
        causal.as_numpy("output"),
        attention(QUERY, is_causal=True, scale=0.5),
        rtol=1e-4,
        atol=1e-5,
    )
    mask = [*query, tensor("mask_allowed", np.tri(5) > 0, "BOOL")]
    given = client("infer", MODEL, mask, parameters={"scale": 0.5})
    np.testing.assert_allclose(
        given.as_numpy("output"), causal.as_numpy("output"), rtol=1e-5, atol=1e-6
    )
    seeded = client("infer", MODEL, [], parameters={"seed": 3, "query_length": 4, "d_k": 2})
    assert seeded.as_numpy("output").shape == (1, 1, 4, 2)


@pytest.fixture
def decompressed(monkeypatch):
    """Which codings the client has undone."""
    seen = []

    def noted(name, undo):
        return lambda data: (seen.append(name), undo(data))[1]

    monkeypatch.setattr(gzip, "decompress", noted("gzip", gzip.decompress))
    monkeypatch.setattr(zlib, "decompress", noted("deflate", zlib.decompress))
    return seen


@pytest.mark.parametrize("there", [None, "gzip", "deflate"])
@pytest.mark.parametrize("back", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_compression(client, decompressed, there, back, binary):
    """Both codings in both directions, around JSON and bytes."""
    result = client(
        "infer",
        MODEL,
        [tensor("query", QUERY, binary=binary)],
        outputs=[output("output", binary=binary), output("lse")],
        request_compression_algorithm=there,
        response_compression_algorithm=back,
    )
    unasked = [] if isinstance(client, Sync) else ["gzip"]
    assert decompressed == ([back] if back else unasked)
    np.testing.assert_allclose(result.as_numpy("output"), attention(QUERY), rtol=1e-4, atol=1e-5)
    assert result.as_numpy("lse").shape == (2, 3, 5)


def test_ids_and_versions(client):
    """The id comes back, the version is named."""
    result = client("infer", "additive", [tensor("query", QUERY)], "1", request_id="an id")
    response = result.get_response()
    assert (response["id"], response["model_version"]) == ("an id", "1")
    assert "id" not in client("infer", "additive", [tensor("query", QUERY)]).get_response()


def test_a_timeout_in_microseconds(client):
    """Long enough it is none; too short it is an error that says so."""
    query = [tensor("query", QUERY)]
    assert client("infer", MODEL, query, timeout=60_000_000).as_numpy("output") is not None
    with pytest.raises(InferenceServerException, match="1e-06 s") as raised:
        client("infer", MODEL, query, timeout=1)
    assert raised.value.status() == "504"


def classified():
    return triton.InferRequestedOutput("output", class_count=3)


def shared():
    requested = triton.InferRequestedOutput("output")
    requested.set_shared_memory("region", 8)
    return requested


def shared_input():
    return triton.InferInput("query", [2, 2], "FP32").set_shared_memory("region", 16)


ONES = [tensor("query", np.ones((2, 2)))]
NAN = np.full((2, 2), np.nan)
HALF = [tensor("query", np.ones((2, 2)), "FP16")]
ZEROS = [tensor("query", np.zeros((2048, 1024)))]
VAST = {"seed": 1, "query_length": 10**9}
ERRORS = [
    ([], {"model_name": "nothing"}, 404, "models are"),
    ([], {"model_version": "2"}, 404, "version"),
    ([], {}, 400, "query is missing"),
    ([tensor("other", NAN)], {}, 400, "whose inputs are"),
    ([tensor("query", np.ones(2), "INT32")], {}, 400, "FP32 or FP64"),
    ([shared_input()], {}, 400, "shared memory"),
    (ONES, {"outputs": [output("other")]}, 400, "whose outputs are"),
    (ONES, {"outputs": [classified()]}, 400, "classification"),
    (ONES, {"outputs": [shared()]}, 400, "shared memory"),
    (ONES, {"sequence_id": 3}, 400, "keep nothing"),
    (ONES, {"parameters": {"x": 1}}, 400, "unknown"),
    (ONES, {"parameters": {"scale": "x"}}, 422, "parameter scale"),
    ([tensor("query", NAN)], {}, 422, "NaN"),
    ([tensor("query", NAN, binary=False)], {}, 400, "no NaN"),
    (HALF, {"outputs": [output("output", binary=False)]}, 400, "binary_data"),
    (ZEROS, {"request_compression_algorithm": "gzip"}, 413, "ATTENTION_MAX_DECODED_BYTES"),
    ([], {"parameters": VAST}, 413, "setting ATTENTION_"),
]


@pytest.mark.parametrize(("inputs", "options", "status", "words"), ERRORS)
def test_errors_are_told(client, inputs, options, status, words):
    """The client reads the status and a sentence, whatever went wrong."""
    with pytest.raises(InferenceServerException, match=words) as raised:
        client("infer", **{"model_name": MODEL, "inputs": inputs, **options})
    assert raised.value.status() == str(status)
    assert "exception occurred in the client" not in raised.value.message()


@pytest.mark.parametrize(
    ("method", "arguments"),
    [("load_model", ["additive"]), ("unload_model", ["additive"]), ("get_log_settings", []),
     ("get_trace_settings", []), ("get_system_shared_memory_status", []),
     ("register_system_shared_memory", ["x", "/x", 8]), ("get_cuda_shared_memory_status", []),
     ("unregister_cuda_shared_memory", [])],
)  # fmt: skip
def test_what_is_not_served_is_told(client, method, arguments):
    """Extensions that are not here say so, instead of an empty page."""
    with pytest.raises(InferenceServerException, match="not served here") as raised:
        client(method, *arguments)
    assert raised.value.status() == "501"


def test_many_inferences_at_once(server):
    """Both clients send several at a time; each result is its own."""
    queries = [normal(1, 1, 4, 8, seed=seed).numpy() for seed in range(12)]
    with triton.InferenceServerClient(f"127.0.0.1:{server.port}", concurrency=4) as client:
        pending = [client.async_infer(MODEL, [tensor("query", query)]) for query in queries]
        found = [request.get_result().as_numpy("output") for request in pending]

    async def all_at_once():
        async with aio.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
            calls = [client.infer(MODEL, [tensor("query", query)]) for query in queries]
            return [result.as_numpy("output") for result in await asyncio.gather(*calls)]

    for query, one, other in zip(queries, found, asyncio.run(all_at_once()), strict=True):
        np.testing.assert_allclose(one, attention(query), rtol=1e-4, atol=1e-5)
        assert np.array_equal(one, other)


def test_bodies_made_apart_from_the_client(server):
    """What generate_request_body makes can be posted by anything, and its answer parsed."""
    body, length = triton.InferenceServerClient.generate_request_body([tensor("query", QUERY)])
    headers = {"Inference-Header-Content-Length": str(length)}
    status, told, content = server.ask("POST", f"/v2/models/{MODEL}/infer", body, **headers)
    assert status == 200
    result = triton.InferenceServerClient.parse_response_body(
        content, header_length=int(told["inference-header-content-length"])
    )
    np.testing.assert_allclose(result.as_numpy("output"), attention(QUERY), rtol=1e-4, atol=1e-5)


# aiohttp's advice on bodies of more than a megabyte, which the client does not take.
@pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")
def test_a_large_tensor(client):
    """Megabytes in and out, as bytes."""
    query = normal(1, 4, 1024, 128).numpy()
    result = client("infer", MODEL, [tensor("query", query)])
    assert result.as_numpy("output").nbytes == query.nbytes == 2 * 2**20
    np.testing.assert_allclose(result.as_numpy("output"), attention(query), rtol=1e-3, atol=1e-4)
