"""Whatever is wrong with an inference is told as such: never a 5xx, always with `error`."""

import json
import time

import pytest
import torch

from service.settings import Settings
from service.wire.open_inference_models import MODELS
from tests.builders import normal
from tests.files import raw
from tests.inference import INFER, LENGTH, MODEL, as_bytes, as_json, framed, infer_path, inference
from tests.problems import problem_of

pytestmark = pytest.mark.anyio

CANARY = "canary-5f3a9c1e-never-repeated"
QUERY = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
GIVEN = as_json("query", QUERY)
PROTOCOL, INVALID = "protocol-violation", "invalid-request"


def of(*inputs, **fields):
    return {"inputs": list(inputs), **fields}


def query(**fields):
    return of({**GIVEN, **fields})


def options(**parameters):
    return of(GIVEN, parameters=parameters)


def output(**fields):
    return of(GIVEN, outputs=[{"name": "output", **fields}])


SHARED = {"shared_memory_region": "x", "shared_memory_byte_size": 4}
DOCUMENTS = [
    (of(), PROTOCOL, "/inputs"),
    (of(as_json("key", QUERY)), PROTOCOL, "/inputs"),
    (of(as_json("key", QUERY), parameters={"seed": 1}), PROTOCOL, "/inputs"),
    (of("query"), PROTOCOL, "/inputs/0"),
    ({"inputs": {"query": GIVEN}}, PROTOCOL, "/inputs"),
    (of(GIVEN, GIVEN), PROTOCOL, "/inputs/1/name"),
    (of(GIVEN, *[as_json("key", QUERY)] * 64), PROTOCOL, "/inputs"),
    (of(GIVEN, {**GIVEN, "name": CANARY}), PROTOCOL, "/inputs/1/name"),
    (of(GIVEN, as_json("logits", QUERY)), PROTOCOL, "/inputs/1/name"),
    (of(GIVEN, as_json("query_weight", QUERY)), PROTOCOL, "/inputs/1/name"),
    (of(GIVEN, model_name=MODEL), PROTOCOL, "/model_name"),
    (of(GIVEN, id=7), PROTOCOL, "/id"),
    (of(GIVEN, id="x" * 1025), PROTOCOL, "/id"),
    (query(name=None), PROTOCOL, "/inputs/0/name"),
    (query(extra=1), PROTOCOL, "/inputs/0/extra"),
    (query(datatype="BYTES", data=["a"] * 4), PROTOCOL, "/inputs/0/datatype"),
    (query(datatype="INT8"), PROTOCOL, "/inputs/0/datatype"),
    (query(datatype="fp32"), PROTOCOL, "/inputs/0/datatype"),
    (query(datatype=CANARY), PROTOCOL, "/inputs/0/datatype"),
    (query(datatype=1), PROTOCOL, "/inputs/0/datatype"),
    (of(GIVEN, as_json("key_lengths", QUERY)), PROTOCOL, "/inputs/1/datatype"),
    (of(GIVEN, as_json("mask_allowed", QUERY)), PROTOCOL, "/inputs/1/datatype"),
    (query(shape=4), PROTOCOL, "/inputs/0/shape"),
    (query(shape=[-1, 2]), PROTOCOL, "/inputs/0/shape/0"),
    (query(shape=[2, 2.0]), PROTOCOL, "/inputs/0/shape/1"),
    (query(shape=["2", 2]), PROTOCOL, "/inputs/0/shape/0"),
    (query(shape=[True, 4]), PROTOCOL, "/inputs/0/shape/0"),
    (query(shape=[1] * 17), PROTOCOL, "/inputs/0/shape"),
    (query(shape=[1, 1, 1, 2, 2]), PROTOCOL, "/inputs/0/data"),
    (query(shape=[2, 3]), PROTOCOL, "/inputs/0/data"),
    (query(shape=[0, 2**62, 2**62], data=[]), PROTOCOL, "/inputs/0/data"),
    (query(data=None), PROTOCOL, "/inputs/0"),
    (query(data="AAAA"), PROTOCOL, "/inputs/0/data"),
    (query(data={"0": 1}), PROTOCOL, "/inputs/0/data"),
    (query(data=[1, 2, 3]), PROTOCOL, "/inputs/0/data"),
    (query(data=[1, 2, 3, "4"]), PROTOCOL, "/inputs/0/data"),
    (query(data=[1, 2, 3, None]), PROTOCOL, "/inputs/0/data"),
    (query(data=[1, 2, 3, True]), PROTOCOL, "/inputs/0/data"),
    (query(data=[1, 2, 3, 1e39]), PROTOCOL, "/inputs/0/data"),
    (query(data=[[1, 2], [3]]), PROTOCOL, "/inputs/0/data"),
    (query(data=[[1, 2], 3]), PROTOCOL, "/inputs/0/data"),
    (query(data=[[1, 2, 3, 4]]), PROTOCOL, "/inputs/0/data"),
    (query(data=[[[[[1, 2, 3, 4]]]]]), PROTOCOL, "/inputs/0/data"),
    (query(parameters=[]), PROTOCOL, "/inputs/0/parameters"),
    (query(parameters={"x": {}}), PROTOCOL, "/inputs/0/parameters/x"),
    (query(parameters={"x": 1}), PROTOCOL, "/inputs/0/parameters"),
    (query(parameters=SHARED), PROTOCOL, "/inputs/0/parameters"),
    (query(parameters={"binary_data_size": 16}), PROTOCOL, "/inputs/0/data"),
    (query(data=None, parameters={"binary_data_size": 16}), PROTOCOL, "/inputs/0"),
    (of(GIVEN, {**GIVEN, "name": "key_lengths", "datatype": "INT32", "shape": [1],
                "data": [2**31]}), PROTOCOL, "/inputs/1/data"),
    (of(GIVEN, {**GIVEN, "name": "key_lengths", "datatype": "INT64", "shape": [1],
                "data": [2**63]}), PROTOCOL, "/inputs/1/data"),
    (of(GIVEN, {**GIVEN, "name": "key_lengths", "datatype": "INT64", "shape": [1],
                "data": [1.5]}), PROTOCOL, "/inputs/1/data"),
    (of(GIVEN, {**GIVEN, "name": "mask_allowed", "datatype": "BOOL", "data": [1, 0, 1, 0]}),
     PROTOCOL, "/inputs/1/data"),
    (output(parameters={"classification": 3}), PROTOCOL, "/outputs/0/parameters"),
    (output(parameters=SHARED), PROTOCOL, "/outputs/0/parameters"),
    (output(parameters={"binary": True}), PROTOCOL, "/outputs/0/parameters"),
    (output(parameters={"binary_data": 1}), PROTOCOL, "/outputs/0/parameters/binary_data"),
    (output(datatype="FP32"), PROTOCOL, "/outputs/0/datatype"),
    (of(GIVEN, outputs=["output"]), PROTOCOL, "/outputs/0"),
    (of(GIVEN, outputs=[{"name": CANARY}]), PROTOCOL, "/outputs/0/name"),
    (of(GIVEN, outputs=[{"name": "tanh_saturated"}]), PROTOCOL, "/outputs/0/name"),
    (of(GIVEN, outputs=[{"name": "lse"}, {"name": "lse"}]), PROTOCOL, "/outputs/1"),
    (options(temperature=2), PROTOCOL, "/parameters"),
    (options(**{CANARY: CANARY}), PROTOCOL, "/parameters"),
    (options(hidden_dim=4), PROTOCOL, "/parameters"),
    (options(triton_enable_empty_final_response=True), PROTOCOL, "/parameters"),
    (options(sequence_id=7, sequence_start=True, sequence_end=False), PROTOCOL, "/parameters"),
    (options(headers="x"), PROTOCOL, "/parameters"),
    (options(causal=["lower_right"]), PROTOCOL, "/parameters/causal"),
    (options(causal=None), PROTOCOL, "/parameters/causal"),
    (options(binary_data_output="yes"), PROTOCOL, "/parameters/binary_data_output"),
    (options(timeout=1.5), PROTOCOL, "/parameters/timeout"),
    (options(timeout=-1), PROTOCOL, "/parameters/timeout"),
    (options(timeout="1"), PROTOCOL, "/parameters/timeout"),
    (options(timeout=True), PROTOCOL, "/parameters/timeout"),
    (of(GIVEN, as_json("offset", torch.tensor([1])), parameters={"offset": 1,
        "causal": "upper_left"}), PROTOCOL, "/parameters/offset"),
    (options(seed=1), INVALID, "/parameters/seed"),
    (options(d_k=2), INVALID, "/parameters/d_k"),
    (options(heads=2), INVALID, "/parameters/heads"),
    (options(scale="1"), INVALID, "/parameters/scale"),
    (options(softcap=0), INVALID, "/parameters/softcap"),
    (options(normalizer=CANARY), INVALID, "/parameters/normalizer"),
    (options(qk_norm=1), INVALID, "/parameters/qk_norm"),
    (options(causal=CANARY), INVALID, "/parameters/causal"),
    (options(window_left=-1), INVALID, "/parameters/window_left"),
    (options(window_right="2"), INVALID, "/parameters/window_right"),
    (options(offset=1.5, causal="upper_left"), INVALID, "/parameters/offset"),
    (options(offset=1), "invalid-mask", "/parameters/offset"),
    (options(device=CANARY), INVALID, "/parameters/device"),
    (options(device="cuda:99"), "unavailable-device", "/parameters/device"),
    (options(dtype="FP32"), INVALID, "/parameters/dtype"),
    (options(nonfinite="maybe"), INVALID, "/parameters/nonfinite"),
    ({"parameters": {"seed": -1}}, INVALID, "/parameters/seed"),
    ({"parameters": {"seed": 1, "batch": 0}}, INVALID, "/parameters/batch"),
    ({"parameters": {"seed": 1, "d_q": 3}}, "shape-mismatch", "/inputs"),
    ({"parameters": {"seed": 1, "model_dim": 8}}, PROTOCOL, "/parameters"),
    (of(as_json("query", torch.ones(3))), "shape-mismatch", "/inputs/0"),
    (of(as_json("query", torch.ones(1, 0))), "shape-mismatch", "/inputs"),
    (of(as_json("key", torch.ones(2, 3)), GIVEN), "shape-mismatch", "/inputs"),
    (of(as_json("key", torch.ones(1, 2, 2)), GIVEN), "shape-mismatch", "/inputs/0"),
    (of(GIVEN, as_json("key", QUERY.double())), "dtype-mismatch", "/inputs"),
    (of(GIVEN, as_json("mask_allowed", torch.ones(3, 3).bool())), "invalid-mask", "/inputs/1"),
    (of(as_json("key_lengths", torch.tensor([3])), GIVEN), "invalid-mask", "/inputs/0"),
]  # fmt: skip


@pytest.mark.parametrize(("document", "slug", "pointer"), DOCUMENTS)
async def test_a_bad_document_says_what_and_where(client, document, slug, pointer):
    """400 where the protocol or the metadata is not followed, 422 where values do not fit.

    The pointer is into the caller's own request, and its values are not repeated.
    """
    answer = await client.post(INFER, json=document)
    body = problem_of(answer, 400 if slug == PROTOCOL else 422)
    assert body["type"] == f"/problems/{slug}"
    assert body["errors"][0]["pointer"] == pointer
    assert CANARY not in answer.text
    assert "/mechanism" not in answer.text
    assert "/mask" not in answer.text


async def test_an_error_names_input_or_parameter(client):
    """Clients show `error` alone: it says which input or parameter is meant."""
    for document, start in (
        (options(softcap=0), "parameter softcap: "),
        (query(data=[1]), "input query: "),
        (output(parameters={"classification": 1}), "output output: "),
    ):
        answer = await client.post(INFER, json=document)
        assert answer.json()["error"].startswith(start)


WEIGHTS = {
    "query": normal(2, 4),
    "query_weight": normal(3, 4),
    "key_weight": normal(3, 4),
    "score_vector": normal(3),
}
OTHER_MODELS = [
    ("additive", {n: t for n, t in WEIGHTS.items() if n != "score_vector"}, {}, INVALID,
     "/inputs"),
    ("additive", {**WEIGHTS, "score_vector": normal(4)}, {}, "shape-mismatch", "/inputs/3"),
    ("additive", {**WEIGHTS, "key_weight": torch.full((3, 4), torch.nan)}, {}, "non-finite",
     "/inputs/2"),
    ("additive", WEIGHTS, {"parameters_seed": 1}, INVALID, "/parameters/parameters_seed"),
    ("additive", WEIGHTS, {"hidden_dim": 3}, INVALID, "/parameters/hidden_dim"),
    ("additive", {"query": normal(2, 4)}, {"hidden_dim": 0}, INVALID, "/parameters/hidden_dim"),
    ("additive", {"query": normal(2, 4)}, {"score": "dot"}, PROTOCOL, "/parameters"),
    ("additive", {"query": normal(2, 4)}, {"qk_norm": "l2"}, INVALID, "/parameters/qk_norm"),
    ("multiplicative", {"query": normal(2, 4)}, {"score": "cosine"}, INVALID,
     "/parameters/score"),
    ("multiplicative", {"query": normal(2, 4), "weight": normal(4, 4)}, {}, INVALID, "/inputs"),
    ("multi_head", {}, {"seed": 1, "d_k": 8}, PROTOCOL, "/parameters"),
    ("multi_head", {"query": normal(1, 1, 2, 8)}, {}, "shape-mismatch", "/inputs/0"),
    ("multi_head", {"query": normal(2, 8)}, {"heads": 3}, "shape-mismatch", "/parameters/heads"),
    ("multi_head", {"query": normal(2, 8)}, {"heads": 4, "kv_heads": 3}, "shape-mismatch",
     "/parameters/kv_heads"),
    ("multi_head", {"query": normal(2, 8), "in_proj_weight": normal(23, 8)}, {"heads": 2}, INVALID,
     "/inputs/1"),
    ("multi_head", {"query": normal(2, 8), "in_proj_weight": normal(24, 8),
                    "out_proj.weight": normal(8, 8)}, {}, INVALID, "/parameters/heads"),
    ("multi_head", {"query": normal(2, 8), "in_proj_weight": normal(24, 8),
                    "k_proj_weight": normal(8, 8)}, {"heads": 2}, INVALID, "/inputs/2"),
]  # fmt: skip


@pytest.mark.parametrize(("model", "tensors", "parameters", "slug", "pointer"), OTHER_MODELS)
async def test_weights_and_options_are_told_of_their_input(
    client, model, tensors, parameters, slug, pointer
):
    """What is wrong with learned weights is said of the input they came in."""
    body, headers = inference(tensors, parameters={**parameters})
    answer = await client.post(infer_path(model), content=body, headers=headers)
    problem = problem_of(answer, 400 if slug == PROTOCOL else 422)
    assert problem["type"] == f"/problems/{slug}"
    assert problem["errors"][0]["pointer"] == pointer


TEXT = json.dumps(of(as_bytes("query", QUERY))).encode()
BYTES = raw(QUERY)


def sized(size, shape=(2, 2), datatype="FP32"):
    given = {"name": "query", "shape": list(shape), "datatype": datatype,
             "parameters": {"binary_data_size": size}}  # fmt: skip
    return json.dumps(of(given)).encode()


FRAMES = {
    "empty": (b"", None),
    "no JSON": (b"\0" * 8, None),
    "not an object": (b"[]", None),
    "NaN": (json.dumps(query(data=[1, 2, 3, float("nan")])).encode(), None),
    "twice": (b'{"inputs":[],"inputs":[]}', None),
    "not UTF-8": (b'{"id":"\xff"}', None),
    "a lone surrogate": (b'{"id":"\\ud800"}', None),
    "no length": (TEXT + BYTES, None),
    "a length of 0": (TEXT + BYTES, "0"),
    "a short length": (TEXT + BYTES, str(len(TEXT) - 1)),
    "a long length": (TEXT + BYTES, str(len(TEXT) + 1)),
    "a length beyond the body": (TEXT + BYTES, str(len(TEXT) + 17)),
    "a negative length": (TEXT + BYTES, "-1"),
    "a length in words": (TEXT + BYTES, "many"),
    "a length with a sign": (TEXT + BYTES, f"+{len(TEXT)}"),
    "a length in exponents": (TEXT + BYTES, "1e2"),
    "a length of many digits": (TEXT + BYTES, "9" * 30),
    "an empty length": (TEXT + BYTES, ""),
    "a byte too few": (TEXT + BYTES[:-1], str(len(TEXT))),
    "a byte too many": (TEXT + BYTES + b"\0", str(len(TEXT))),
    "no bytes": (TEXT, str(len(TEXT))),
    "a length of JSON alone": (json.dumps(of()).encode(), "13"),
    "less than the shape": (sized(12) + BYTES[:12], str(len(sized(12)))),
    "more than the shape": (sized(20) + BYTES + b"\0" * 4, str(len(sized(20)))),
    "a negative size": (sized(-16) + BYTES, str(len(sized(-16)))),
    "a size with a fraction": (sized(16.0) + BYTES, str(len(sized(16.0)))),
    "a size in words": (sized("16") + BYTES, str(len(sized("16")))),
    "a size of truth": (sized(True, (1, 1), "BOOL") + b"\0", str(len(sized(True, (1, 1), "BOOL")))),
    "a vast size": (sized(2**70) + BYTES, str(len(sized(2**70)))),
    "strings": (sized(16, (2,), "BYTES") + BYTES, str(len(sized(16, (2,), "BYTES")))),
    "extents that overflow": (
        sized(0, (2**31, 2**31, 0, 2**31)),
        str(len(sized(0, (2**31, 2**31, 0, 2**31)))),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FRAMES)
async def test_a_bad_frame_is_400(client, name):
    """Lengths and sizes that do not fit the body, and what is no JSON."""
    body, length = FRAMES[name]
    headers = {} if length is None else {LENGTH: length}
    problem_of(await client.post(INFER, content=body, headers=headers), 400)


async def test_a_boolean_byte_is_0_or_1(client):
    """Any other byte is no truth value."""
    inputs = [as_bytes("query", QUERY), as_bytes("mask_allowed", torch.ones(2, 2).bool())]
    body, headers = framed(json.dumps(of(*inputs)).encode(), BYTES, b"\1\1\2\1")
    body = problem_of(await client.post(INFER, content=body, headers=headers), 400)
    assert body["errors"][0]["pointer"] == "/inputs/1"


async def test_bytes_that_are_not_finite_are_422(client):
    """As everywhere, with the place of the first."""
    body, headers = inference({"query": torch.tensor([[1.0, torch.inf]])})
    detail = problem_of(await client.post(INFER, content=body, headers=headers), 422)["detail"]
    assert "[0, 1]" in detail


OVER = [
    (Settings(max_body_bytes=40), "max_body_bytes", {"query": QUERY}, ()),
    (Settings(max_json_bytes=40), "max_json_bytes", {"query": QUERY}, ()),
    (Settings(max_json_bytes=40), "max_json_bytes", {"query": QUERY}, ("query",)),
    (Settings(max_elements=3), "max_elements", {"query": QUERY}, ()),
    (Settings(max_elements=3), "max_elements", {"query": QUERY}, ("query",)),
    (Settings(max_json_values=5), "max_json_values", {"query": QUERY}, ("query",)),
    (Settings(max_json_depth=3), "max_json_depth", {"query": QUERY}, ()),
    (Settings(max_peak_bytes=2**20), "max_peak_bytes", {"query": normal(64, 8)}, ()),
    (Settings(max_flops=10**4), "max_flops", {"query": normal(64, 8)}, ()),
    (Settings(max_answer_bytes=1000), "max_answer_bytes", {"query": normal(64, 8)}, ()),
]


@pytest.mark.parametrize(("settings", "field", "tensors", "as_text"), OVER)
async def test_what_is_over_a_limit_names_it(client, settings, field, tensors, as_text):
    """413 names the limit here too; JSON is told of the bytes behind it."""
    body, headers = inference(tensors, as_text=as_text)
    problem = problem_of(await client.post(INFER, content=body, headers=headers), 413)
    assert problem["limit"] == settings.name_of(field)
    assert problem["allowed"] == getattr(settings, field) < problem["needed"]
    assert "safetensors" not in problem["detail"]
    if field == "max_json_values":
        assert "binary_data_size" in problem["detail"]


@pytest.mark.parametrize("shape", [[2**20, 2**20], [2**31, 2**31, 2**31], [2**62, 2**62]])
async def test_vast_shapes_are_413_before_any_allocation(client, shape):
    """A few bytes that claim terabytes are compared with the limit first."""
    for given in ({"data": [1]}, {"parameters": {"binary_data_size": 4}}):
        text = json.dumps(query(**{"shape": shape, "data": None, **given})).encode()
        body, headers = framed(text, b"\0" * 4)
        problem = problem_of(await client.post(INFER, content=body, headers=headers), 413)
        assert problem["limit"] == "ATTENTION_MAX_ELEMENTS"


@pytest.mark.parametrize("model", ["nothing", "Additive", "stats", CANARY, "x" * 1000, "%00"])
async def test_an_unknown_model_is_404(client, model):
    """For every operation on a model, with the names of those that there are."""
    for method, suffix in (("POST", "/infer"), ("GET", ""), ("GET", "/ready"), ("GET", "/config"),
                           ("GET", "/stats")):  # fmt: skip
        for version in ("", "/versions/1"):
            if (model, method, suffix, version) == ("stats", "GET", "", ""):
                continue
            answer = await client.request(method, f"/v2/models/{model}{version}{suffix}")
            problem = problem_of(answer, 404)
            assert problem["type"] == "/problems/unknown-model"
            assert all(name in problem["error"] for name in MODELS)


@pytest.mark.parametrize("version", ["2", "0", "01", "latest", "-1", CANARY])
async def test_an_unknown_version_is_404(client, version):
    """There is version 1 alone."""
    for method, suffix in (("POST", "/infer"), ("GET", ""), ("GET", "/ready"), ("GET", "/config"),
                           ("GET", "/stats")):  # fmt: skip
        path = f"/v2/models/{MODEL}/versions/{version}{suffix}"
        problem = problem_of(await client.request(method, path), 404)
        assert problem["type"] == "/problems/unknown-model"


UNSUPPORTED = [
    ("POST", "/v2/repository/models/additive/load"),
    ("POST", "/v2/repository/models/additive/unload"),
    ("GET", "/v2/systemsharedmemory/status"),
    ("GET", "/v2/systemsharedmemory/region/x/status"),
    ("POST", "/v2/systemsharedmemory/region/x/register"),
    ("POST", "/v2/cudasharedmemory/unregister"),
    ("GET", "/v2/trace/setting"),
    ("POST", "/v2/models/additive/trace/setting"),
    ("GET", "/v2/logging"),
    ("POST", "/v2/logging"),
]


@pytest.mark.parametrize(("method", "path"), UNSUPPORTED)
async def test_an_extension_that_is_not_served_is_501(client, method, path):
    """What else the protocol's clients can ask for is told apart from what does not exist."""
    problem = problem_of(await client.request(method, path), 501)
    assert problem["type"] == "/problems/unsupported-extension"
    assert "statistics" in problem["error"]


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"ready":1}', b'{"all":true}', b"\xff"])
async def test_a_bad_index_request_is_400(client, content):
    """The body of the index is empty, or says whether to list only what is ready."""
    problem_of(await client.post("/v2/repository/index", content=content), 400)


async def test_a_long_bad_list_is_one_small_error(client):
    """A list at the limits fails at its first bad element: quickly, and with one error."""
    for data in ([1] * 999_999 + ["a"], [[]] * 510_000, [{}] * 510_000):
        began = time.monotonic()
        answer = await client.post(INFER, json=query(data=data))
        assert time.monotonic() - began < 5
        body = problem_of(answer, 400)
        assert len(body["errors"]) == 1
        assert len(answer.content) < 1000
