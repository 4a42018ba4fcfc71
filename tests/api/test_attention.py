import base64
import json
import math
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load
from torch.nn.functional import scaled_dot_product_attention

from schemas.attention import AttentionAnswer, GroupedAnswer
from service.api.examples import ATTENTION
from service.diagnostics.included import INCLUDED
from service.includes import INCLUDES
from tests.builders import SOFTMAX_DIAGNOSTICS, normal, same_bytes
from tests.files import EXAMPLE, file_of, raw, response_of

pytestmark = pytest.mark.anyio

PATH = "/v1/attention"
BINARY = "application/x-safetensors"
BATCH, HEADS, KV_HEADS, QUERIES, KEYS, D_K, D_V = 2, 6, 3, 5, 7, 11, 13
QUERY = normal(BATCH, HEADS, QUERIES, D_K, seed=1)
KEY = normal(BATCH, KV_HEADS, KEYS, D_K, seed=2)
VALUE = normal(BATCH, KV_HEADS, KEYS, D_V, seed=3)
MATRICES = ["output", "weights", "logits", "scores"]
AGGREGATED = {name for name, member in SOFTMAX_DIAGNOSTICS.items() if member.aggregated}


async def ask(client, document, **headers):
    """The answer to a JSON request, as JSON unless `accept` says otherwise."""
    answer = await client.post(PATH, json=document, headers=headers)
    assert answer.status_code == 200, answer.text
    if answer.headers["content-type"] == BINARY:
        return answer.content
    return AttentionAnswer.model_validate(answer.json()) and answer.json()


async def send(client, content, accept=BINARY, **parameters):
    """The answer to a file."""
    headers = {"content-type": BINARY, "accept": accept}
    answer = await client.post(PATH, content=content, headers=headers, params=parameters)
    assert answer.status_code == 200, answer.text
    return answer.content if accept == BINARY else answer.json()


def inputs(**tensors):
    return {"kind": "tensors", **tensors}


def flat(tensor, name=None, *, text=False):
    """A tensor with its shape, the data a list or base64."""
    name = name or str(tensor.dtype).removeprefix("torch.")
    data = base64.b64encode(raw(tensor)).decode() if text else tensor.reshape(-1).tolist()
    return {"shape": list(tensor.shape), "dtype": name, "data": data}


def unpacked(written):
    """A flat or base64 tensor of an answer."""
    dtype = getattr(torch, written["dtype"])
    if isinstance(written["data"], str):
        content = bytearray(base64.b64decode(written["data"]))
        return torch.frombuffer(content, dtype=dtype).view(written["shape"])
    data = [math.nan if number is None else number for number in written["data"]]
    return torch.tensor(data, dtype=dtype).view(written["shape"])


def shape_of(nested):
    """The extents of nested lists, which must be a box."""
    if not isinstance(nested, list):
        return []
    inner = [shape_of(item) for item in nested]
    assert all(item == inner[0] for item in inner)
    return [len(nested), *inner[0]]


FORMS = {
    "nested": lambda t: t.tolist(),
    "flat": flat,
    "base64": lambda t: flat(t, text=True),
}


@pytest.mark.parametrize("accept", [BINARY, "application/json"])
async def test_all_ways_in_and_out_agree_to_the_bit(client, accept):
    """Nested, flat, base64 and safetensors tensors give the same bits, in JSON and in binary."""
    tensors = {"query": QUERY, "key": KEY, "value": VALUE}
    request = {"mask": {"causal": "lower_right"}, "include": MATRICES}
    found = []
    for form in FORMS.values():
        given = inputs(**{name: form(tensor) for name, tensor in tensors.items()})
        found.append(await ask(client, {"inputs": given, **request}, accept=accept))
    found.append(await send(client, file_of(tensors, {"request": json.dumps(request)}), accept))
    if accept == BINARY:
        decoded = [load(content) for content in found]
        assert decoded[0].keys() == set(MATRICES)
        for other in decoded[1:]:
            assert all(same_bytes(decoded[0][name], other[name]) for name in MATRICES)
    for other in found[1:] if accept != BINARY else ():
        assert all(found[0][name] == other[name] for name in MATRICES)


def flattened(nested):
    """The elements of nested lists."""
    if not isinstance(nested, list):
        return [nested]
    return [element for item in nested for element in flattened(item)]


async def test_json_and_binary_answers_hold_the_same_numbers(client):
    """A number in JSON is the shortest that reads back to the same float32."""
    request = {"inputs": {"kind": "seeded", "seed": 3, "heads": 2}, "include": MATRICES}
    binary = load(await ask(client, request, accept=BINARY))
    for tensor_format in ("nested", "flat", "base64"):
        answer = await ask(client, {**request, "tensor_format": tensor_format})
        for name in MATRICES:
            written = answer[name]
            read = torch.tensor(written) if tensor_format == "nested" else unpacked(written)
            assert same_bytes(read, binary[name])


@pytest.mark.parametrize("rank", [2, 3, 4])
@pytest.mark.parametrize("tensor_format", ["nested", "flat", "base64"])
async def test_answers_drop_the_axes_the_query_lacks(client, rank, tensor_format):
    """Output and matrices have the query's rank; diagnostics always carry (batch, head)."""
    lead = [BATCH, HEADS][: rank - 2]
    query = normal(*lead, QUERIES, D_K)
    lead_key = [BATCH, KV_HEADS][: rank - 2]
    given = inputs(
        query=query.tolist(),
        key=normal(*lead_key, KEYS, D_K).tolist(),
        value=normal(*lead_key, KEYS, D_V).tolist(),
    )
    include = [*MATRICES, "diagnostics", "row_diagnostics", "key_share", "sparsity"]
    request = {"inputs": given, "include": include, "tensor_format": tensor_format}
    answer = await ask(client, request)
    extents = shape_of if tensor_format == "nested" else (lambda written: written["shape"])
    batch, heads = (BATCH if rank > 2 else 1), (HEADS if rank == 4 else 1)
    assert extents(answer["output"]) == [*lead, QUERIES, D_V]
    for name in ("weights", "logits", "scores"):
        assert extents(answer[name]) == [*lead, QUERIES, KEYS]
    assert extents(answer["key_share"]) == [batch, heads, KEYS]
    assert set(answer["row_diagnostics"]) == {*SOFTMAX_DIAGNOSTICS, "sparsity"}
    for figures in answer["row_diagnostics"].values():
        assert extents(figures) == [batch, heads, QUERIES]
    assert set(answer["diagnostics"]) == {*AGGREGATED, "sparsity"}
    for figures in answer["diagnostics"].values():
        assert all(shape_of(figures[n]) == [batch, heads] for n in ("mean", "min", "max", "rows"))
    assert shape_of(answer["verdict"]["heads"]) == [batch, heads]
    kv_heads = KV_HEADS if rank == 4 else 1
    assert answer["shape"] == {"batch": batch, "heads": heads, "kv_heads": kv_heads,
        "query_length": QUERIES, "key_length": KEYS, "d_k": D_K, "d_v": D_V}  # fmt: skip


@pytest.mark.parametrize("rank", [2, 3, 4])
async def test_binary_answers_have_the_same_shapes(client, rank):
    """The axes are the same in safetensors, where row diagnostics are tensors by name."""
    lead = [BATCH, HEADS][: rank - 2]
    include = {"include": ["output", "weights", "row_diagnostics", "key_share"]}
    content = file_of({"query": normal(*lead, QUERIES, D_K)}, {"request": json.dumps(include)})
    found = load(await send(client, content))
    batch, heads = (BATCH if rank > 2 else 1), (HEADS if rank == 4 else 1)
    rows = {f"diagnostics.{name}" for name in SOFTMAX_DIAGNOSTICS}
    assert found.keys() == {"output", "weights", "key_share", *rows}
    assert found["output"].shape == (*lead, QUERIES, D_K)
    assert found["weights"].shape == (*lead, QUERIES, QUERIES)
    assert found["key_share"].shape == (batch, heads, QUERIES)
    assert all(found[name].shape == (batch, heads, QUERIES) for name in rows)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
async def test_each_dtype_goes_in_and_comes_out(client, dtype):
    """Output and weights have the inputs' dtype; the rest is float32, or float64 for float64."""
    kind = getattr(torch, dtype)
    wide = torch.float64 if dtype == "float64" else torch.float32
    query = normal(QUERIES, D_K).to(kind)
    include = [*MATRICES, "row_diagnostics", "key_share"]
    expected = scaled_dot_product_attention(*[query.to(wide)[None, None]] * 3)[0, 0].to(kind)
    for text in (False, True):
        given = inputs(query=flat(query, text=text))
        for tensor_format in ("flat", "base64"):
            answer = await ask(
                client, {"inputs": given, "include": include, "tensor_format": tensor_format}
            )
            assert answer["numerics"]["compute_dtype"] == str(wide).removeprefix("torch.")
            named = {name: unpacked(answer[name]) for name in (*MATRICES, "key_share")}
            assert named["output"].dtype == named["weights"].dtype == kind
            for name in ("logits", "scores", "key_share"):
                assert named[name].dtype == wide
            entropy = unpacked(answer["row_diagnostics"]["entropy"])
            assert entropy.dtype == wide
            tolerance = {torch.float16: 1e-3, torch.bfloat16: 1e-2}.get(kind, 1e-6)
            torch.testing.assert_close(named["output"], expected, rtol=tolerance, atol=tolerance)
    binary = load(await send(client, file_of({"query": query})))
    assert same_bytes(binary["output"], named["output"])
    assert same_bytes(binary["weights"], named["weights"])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
async def test_compute_dtype_casts_the_inputs_first(client, dtype):
    """Inputs of different dtypes are cast by compute.dtype, as if they had been sent so."""
    kind = getattr(torch, dtype)
    mixed = {"query": QUERY.double(), "key": KEY.half(), "value": VALUE.bfloat16()}
    cast = {name: tensor.to(kind) for name, tensor in mixed.items()}
    request = json.dumps({"compute": {"dtype": dtype}})
    found = load(await send(client, file_of(mixed, {"request": request})))
    expected = load(await send(client, file_of(cast)))
    assert same_bytes(found["output"], expected["output"])
    assert found["output"].dtype == kind


async def test_a_seed_is_three_lines_of_pytorch(client):
    """Seeded inputs equal those of the contract's three lines, bit for bit, over HTTP."""
    shape = {"batch": 2, "heads": 6, "kv_heads": 3, "query_length": 5, "key_length": 7}
    seeded = {"kind": "seeded", "seed": 11, **shape, "d_k": 11, "d_v": 13}
    generator = torch.Generator().manual_seed(11)
    shapes = {"query": (2, 6, 5, 11), "key": (2, 3, 7, 11), "value": (2, 3, 7, 13)}
    drawn = {name: torch.randn(extent, generator=generator) for name, extent in shapes.items()}
    request = {"include": [*MATRICES, "row_diagnostics"]}
    found = load(await ask(client, {"inputs": seeded, **request}, accept=BINARY))
    expected = load(await send(client, file_of(drawn, {"request": json.dumps(request)})))
    assert found.keys() == expected.keys()
    assert all(same_bytes(found[name], expected[name]) for name in found)


async def test_a_seed_with_mean_and_std_scales_the_same_draw(client):
    """Other means and deviations are `* std + mean` on the same numbers."""
    seeded = {"kind": "seeded", "seed": 5, "query_length": 4, "d_k": 3, "mean": 0.5, "std": 2.0}
    generator = torch.Generator().manual_seed(5)
    drawn = {
        name: torch.randn((1, 1, 4, 3), generator=generator) * 2.0 + 0.5
        for name in ("query", "key", "value")
    }
    found = load(await ask(client, {"inputs": seeded}, accept=BINARY))
    expected = load(await send(client, file_of(drawn)))
    assert same_bytes(found["output"], expected["output"])


async def test_self_attention_draws_the_query_only(client):
    """With self_attention key and value are the query, as when they are left out."""
    seeded = {"kind": "seeded", "seed": 2, "query_length": 5, "d_k": 3, "self_attention": True}
    query = torch.randn((1, 1, 5, 3), generator=torch.Generator().manual_seed(2))
    found = load(await ask(client, {"inputs": seeded}, accept=BINARY))
    expected = load(await send(client, file_of({"query": query})))
    assert same_bytes(found["output"], expected["output"])


async def test_drawing_leaves_the_global_generator_alone(client):
    """A seeded request does not change what torch.randn gives next."""
    torch.manual_seed(0)
    expected = torch.randn(3)
    torch.manual_seed(0)
    await ask(client, {"inputs": {"kind": "seeded", "seed": 9}})
    assert same_bytes(torch.randn(3), expected)


PARTS = (
    "output",
    "weights",
    "logits",
    "scores",
    "key_share",
    "row_diagnostics",
    "theory",
    "gradients",
)
ALWAYS = {
    "mechanism", "shape", "mask", "numerics", "omitted", "device", "torch", "timing_ms",
    "batch_size", "request_id",
}  # fmt: skip


@pytest.mark.parametrize("include", [[], *([name] for name in INCLUDES), list(INCLUDES)])
async def test_an_answer_has_exactly_what_is_included(client, include):
    """Nothing that was not included is in the answer; the verdict comes with the diagnostics."""
    answer = await ask(client, {"include": include})
    expected = {name for name in include if name in PARTS}
    figures = {name for name, figure in INCLUDED.items() if figure.include in include}
    if "diagnostics" in include:
        expected |= {"diagnostics", "verdict"}
        assert set(answer["diagnostics"]) == AGGREGATED | figures
    elif figures:
        expected |= {"diagnostics"}
        assert set(answer["diagnostics"]) == figures
    assert set(answer) == ALWAYS | expected
    if "row_diagnostics" in include:
        assert set(answer["row_diagnostics"]) == set(SOFTMAX_DIAGNOSTICS) | figures
    assert answer["omitted"] == []


async def test_included_items_may_be_objects_with_options(client):
    """An item written as an object is the same item; sparsity takes its threshold."""
    plain = await ask(client, {"include": ["output", "sparsity"]})
    named = await ask(
        client, {"include": [{"name": "output"}, {"name": "sparsity", "threshold": 0.01}]}
    )
    assert named["diagnostics"] == plain["diagnostics"]
    assert named["output"] == plain["output"]
    wider = await ask(client, {"include": [{"name": "sparsity", "threshold": 0.5}]})
    share, more = plain["diagnostics"]["sparsity"], wider["diagnostics"]["sparsity"]
    assert more["mean"][0][0] > share["mean"][0][0]


@pytest.mark.parametrize(("queries", "dropped"), [(1024, False), (1025, True)])
async def test_large_weights_are_dropped_from_the_default(client, queries, dropped):
    """The default leaves weights out above 2^20 elements and says so; asked for, they come."""
    shape = {"kind": "seeded", "query_length": queries, "key_length": 1024, "d_k": 4}
    content = await ask(client, {"inputs": shape}, accept=BINARY)
    assert ("weights" in load(content)) is not dropped
    assert response_of(content)["omitted"] == (["weights"] if dropped else [])
    assert "output" in load(content)
    content = await ask(client, {"inputs": shape, "include": ["weights"]}, accept=BINARY)
    assert load(content)["weights"].shape == (1, 1, queries, 1024)
    assert response_of(content)["omitted"] == []


async def test_what_given_inputs_cannot_give_is_named_in_omitted(client):
    """Given logits have no scores and no theory, weights no logits either, both no output."""
    include = ["output", "weights", "logits", "scores", "theory", "diagnostics"]
    logits = {"kind": "logits", "logits": [[1, 2], [3, 4]]}
    answer = await ask(client, {"inputs": logits, "include": include})
    assert answer["omitted"] == ["output", "scores", "theory"]
    assert shape_of(answer["logits"]) == [2, 2]
    weights = {"kind": "weights", "weights": [[0.5, 0.5], [0.25, 0.75]], "value": [[1], [2]]}
    answer = await ask(client, {"inputs": weights, "include": include})
    assert answer["omitted"] == ["logits", "scores", "theory"]
    assert answer["output"] == [[1.5], [1.75]]
    reasons = {n: f.get("reason") for n, f in answer["diagnostics"].items()}
    assert "constant" in reasons["logit_variance"]
    assert "scores" in reasons["score_variance"]
    assert reasons["entropy"] is None
    assert answer["diagnostics"]["score_variance"]["mean"] == [[None]]


async def test_undefined_is_null_in_json_and_exact_in_binary(client):
    """A row without a key: weights 0, log-sum-exp −∞, no argmax, the rest undefined."""
    request = {
        "inputs": {"kind": "seeded", "query_length": 2, "key_length": 3, "d_k": 2},
        "mask": {"allowed": [[True, False, False], [False, False, False]]},
        "include": [*MATRICES, "diagnostics", "row_diagnostics", "key_share"],
    }
    answer = await ask(client, request)
    rows = {name: figures[0][0] for name, figures in answer["row_diagnostics"].items()}
    assert answer["weights"] == [[[[1, 0, 0], [0, 0, 0]]]]
    assert answer["output"][0][0][1] == [0, 0]
    assert answer["logits"][0][0][1] == [None, None, None]
    assert answer["logits"][0][0][0][1:] == [None, None]
    assert None not in flattened(answer["scores"])
    assert answer["key_share"] == [[[1, None, None]]]
    assert rows["visible_keys"] == [1, 0]
    assert rows["argmax"] == [0, None]
    assert rows["entropy"] == [0, None]
    assert rows["normalized_entropy"] == [None, None]
    assert rows["lse"][0] is not None
    assert all(rows[name][1] is None for name in set(SOFTMAX_DIAGNOSTICS) - {"visible_keys"})
    assert answer["numerics"]["fully_masked_rows"] == 1
    assert answer["mask"]["visible_keys"]["mean"] == [[0.5]]
    assert answer["diagnostics"]["entropy"]["rows"] == [[1]]
    assert answer["diagnostics"]["normalized_entropy"]["rows"] == [[0]]
    assert answer["diagnostics"]["normalized_entropy"]["mean"] == [[None]]
    assert answer["verdict"]["level"] is None
    binary = load(await ask(client, request, accept=BINARY))
    assert binary["logits"][0, 0, 1].tolist() == [-math.inf] * 3
    assert binary["diagnostics.argmax"].tolist() == [[[0, -1]]]
    assert binary["diagnostics.lse"][0, 0, 1] == -math.inf
    assert binary["diagnostics.entropy"][0, 0, 1].isnan()
    assert binary["key_share"][0, 0, 1].isnan()
    flattened_answer = await ask(client, {**request, "tensor_format": "flat"})
    assert flattened_answer["row_diagnostics"]["argmax"]["data"] == [0, None]
    assert flattened_answer["logits"]["data"].count(None) == 5


async def test_indices_past_the_first_are_not_taken_for_none(client):
    """Only a row without a key has no argmax; the indices 1 and 10 … 19 stay what they are."""
    logits = (torch.eye(21) * 9).tolist()
    given = {"kind": "logits", "logits": logits}
    answer = await ask(client, {"inputs": given, "include": ["row_diagnostics"]})
    assert answer["row_diagnostics"]["argmax"] == [[list(range(21))]]


async def test_propagated_nan_is_null_in_json_and_nan_in_binary(client):
    """With compute.nonfinite propagate NaN reaches the answer and is counted."""
    query = torch.tensor([[math.nan, 1.0], [1.0, 2.0]])
    request = {"compute": {"nonfinite": "propagate"}, "include": ["output"]}
    given = inputs(query=flat(query, text=True), key=[[1, 0], [0, 1]], value=[[1, 0], [0, 1]])
    answer = await ask(client, {"inputs": given, **request})
    assert answer["output"][0] == [None, None]
    assert None not in answer["output"][1]
    assert answer["numerics"]["nonfinite_inputs"] == 1
    binary = load(await ask(client, {"inputs": given, **request}, accept=BINARY))
    assert binary["output"][0].isnan().all()
    assert binary["output"][1].isfinite().all()


async def test_an_output_past_float16_is_infinite_in_binary_and_null_in_json(client):
    """A value that only the answer's dtype cannot hold does not break the answer."""
    given = {"kind": "weights", "weights": flat(torch.ones(1, 1).half()),
             "value": flat(torch.full((1, 2), 65504.0).half())}  # fmt: skip
    answer = await ask(client, {"inputs": given})
    assert answer["output"] == [[65504, 65504]]
    given["weights"] = flat(torch.full((1, 1), 2.0).half())
    answer = await ask(client, {"inputs": given})
    assert answer["output"] == [[None, None]]


async def test_the_request_id_is_echoed(client):
    """A sane X-Request-ID comes back in header and body; another is replaced."""
    for given in ("abc-123", "A.b_c-9", "x" * 128):
        answer = await client.post(PATH, headers={"X-Request-ID": given})
        assert answer.headers["x-request-id"] == answer.json()["request_id"] == given
    made = set()
    for insane in ("", "a b", "a\tb", "é", "x" * 129, "<script>", "a/b"):
        headers = {"X-Request-ID": insane.encode()}
        answer = await client.post(PATH, headers=headers)
        identity = answer.headers["x-request-id"]
        assert identity == answer.json()["request_id"] != insane
        assert len(identity) == 32
        made.add(identity)
    assert len(made) == 7
    answer = await client.get("/health/live", headers={"X-Request-ID": "on-every-answer"})
    assert answer.headers["x-request-id"] == "on-every-answer"


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, "application/json"),
        ("", "application/json"),
        ("*/*", "application/json"),
        ("application/*", "application/json"),
        ("application/json", "application/json"),
        ("APPLICATION/JSON; charset=utf-8", "application/json"),
        (BINARY, BINARY),
        (f"text/html, {BINARY}", BINARY),
        (f"application/json;q=0.5, {BINARY};q=0.6", BINARY),
        (f"application/json;q=0.6, {BINARY};q=0.5", "application/json"),
        (f"{BINARY};q=0.1, */*;q=0.05", BINARY),
        (f"*/*, {BINARY};q=0.9", "application/json"),
        ("application/json;q=0, */*", BINARY),
        (f"*/*;q=0.1, application/*;q=0.2, {BINARY};q=0", "application/json"),
        (f"application/json;q=wrong, {BINARY};q=0.001", BINARY),
        ("text/html", None),
        ("text/html, image/avif;q=0.8", None),
        ("application/json;q=0", None),
        ("*/*;q=0", None),
        (f"application/json;q=0.0, {BINARY};q=0.000", None),
        ("application/json;q=nan", None),
        ("application", None),
        ("json", None),
    ],
)
async def test_accept_decides_the_encoding(client, accept, expected):
    """The best liked encoding is given, JSON where none is preferred, and 406 where none fits."""
    headers = {} if accept is None else {"accept": accept}
    request = client.build_request("POST", PATH, json={"include": []}, headers=headers)
    if accept is None:
        del request.headers["accept"]
    answer = await client.send(request)
    if expected is None:
        assert answer.status_code == 406
        assert answer.headers["content-type"] == "application/problem+json"
    else:
        assert answer.status_code == 200
        assert answer.headers["content-type"] == expected


@pytest.mark.parametrize(
    "content_type",
    [None, "application/json", "application/json; charset=utf-8", "Application/JSON",
     "application/vnd.api+json"],
)  # fmt: skip
async def test_json_may_be_called_by_several_names(client, content_type):
    """No Content-Type at all, and every +json type, is JSON."""
    headers = {} if content_type is None else {"content-type": content_type}
    answer = await client.post(PATH, content=b'{"include":[]}', headers=headers)
    assert answer.status_code == 200
    assert "output" not in answer.json()


async def test_labels_come_back(client):
    """The names of queries and keys are repeated in the answer."""
    labels = {"query": ["a", "\x00é"], "key": ["x", "y", "😀"]}
    shape = {"kind": "seeded", "query_length": 2, "key_length": 3}
    answer = await ask(client, {"inputs": shape, "labels": labels})
    assert answer["labels"] == labels
    answer = await ask(client, {"inputs": shape, "labels": {"key": labels["key"]}})
    assert answer["labels"] == {"key": labels["key"]}


async def test_the_resolved_request_is_told(client):
    """Scale, offsets and device are echoed as they were applied."""
    request = {
        "mechanism": {"kind": "scaled_dot_product", "softcap": 30},
        "inputs": {"kind": "seeded", "batch": 2, "query_length": 3, "key_length": 7, "d_k": 16},
        "mask": {"causal": "lower_right", "key_lengths": [7, 2]},
    }
    answer = await ask(client, request)
    resolved = {
        "kind": "scaled_dot_product",
        "scale": 0.25,
        "softcap": 30,
        "normalizer": "softmax",
    }
    assert answer["mechanism"] | resolved == answer["mechanism"]
    assert answer["mask"]["resolved_offset"] == [4, -1]
    assert answer["mask"]["causal"] == "lower_right"
    assert answer["device"] == "cpu" or answer["device"].startswith("cuda:")
    assert answer["torch"] == torch.__version__.partition("+")[0]
    assert answer["batch_size"] == 1
    assert answer["timing_ms"]["compute"] > 0
    given = {"kind": "logits", "logits": [[1, 2]]}
    answer = await ask(client, {"inputs": given})
    assert answer["mechanism"]["scale"] is None


@pytest.mark.parametrize("name", ATTENTION)
@pytest.mark.parametrize("tensor_format", ["nested", "flat", "base64"])
async def test_answers_are_what_the_document_says(client, name, tensor_format):
    """The answer to every example, in every encoding, fits the documented model, and only it."""
    request = {**ATTENTION[name]["value"], "tensor_format": tensor_format}
    answer = await client.post(PATH, json=request)
    AttentionAnswer.model_validate_json(answer.content)
    content = await ask(client, request, accept=BINARY)
    AttentionAnswer.model_validate(response_of(content))


async def example(client, accept="application/json", **request):
    """The answer to the shipped file of a real model, posted as it lies."""
    text = json.dumps({"ignore_unknown": True, **request})
    return await send(client, EXAMPLE.read_bytes(), accept, request=text)


async def test_a_stored_model_is_analysed_as_it_lies(client):
    """The example file gives one answer a layer and what was ignored."""
    answer = await example(client)
    GroupedAnswer.model_validate(answer)
    assert [group["name"] for group in answer["groups"]] == [f"layer{i}" for i in range(6)]
    results = {f"layer{i}.{n}" for i in range(6) for n in ("weights", "output")}
    assert set(answer["omitted"]) == results
    for group in answer["groups"]:
        assert shape_of(group["output"]) == [2, 12, 19, 32]
        assert shape_of(group["weights"]) == [2, 12, 19, 19]
        assert group["verdict"]["level"] is not None


async def test_the_ranking_is_worst_first(client):
    """All heads of all groups stand in order of level, then of the gradient that passes."""
    answer = await example(client, include=["diagnostics"])
    ranking = answer["ranking"]
    assert {(head["group"], head["head"]) for head in ranking} == {
        (f"layer{layer}", head) for layer in range(6) for head in range(12)
    }
    assert len(ranking) == 72
    first = ranking[0]
    assert (first["group"], first["head"], first["level"]) == ("layer0", 2, "saturated")
    order = ["saturated", "sharp", "diffuse", "healthy", None]
    places = [(order.index(head["level"]), head["jacobian_trace"]) for head in ranking]
    assert all(before <= after for before, after in pairwise(places))
    assert len({place for place, _ in places}) > 1
    for head in ranking:
        assert 0 <= head["jacobian_trace"] <= 1
        assert 0 < head["max_weight"] <= 1
        assert 0 <= head["entropy"] <= math.log(19)


async def test_the_ranking_is_that_of_the_rows(client):
    """A ranked head's figures are the means of its rows over the batch."""
    content = await example(client, BINARY, include=["diagnostics", "row_diagnostics"])
    rows, ranking = load(content), response_of(content)["ranking"]
    for head in ranking[::7]:
        for name in ("entropy", "max_weight", "jacobian_trace"):
            figures = rows[f"{head['group']}.diagnostics.{name}"][:, head["head"]].double()
            assert head[name] == pytest.approx(float(figures.nanmean()), rel=1e-6)


async def test_a_group_is_what_it_would_be_alone(client):
    """Each group of a file gives the bits that its tensors give in a file of their own."""
    theirs = load(EXAMPLE.read_bytes())
    content = await example(client, BINARY, include=MATRICES)
    together = load(content)
    GroupedAnswer.model_validate(response_of(content))
    for layer in ("layer0", "layer5"):
        own = {name: theirs[f"{layer}.{name}"] for name in ("query", "key", "value")}
        own["key_lengths"] = theirs["key_lengths"]
        request = json.dumps({"include": MATRICES})
        alone = load(await send(client, file_of(own, {"request": request})))
        assert alone.keys() == set(MATRICES)
        assert all(same_bytes(alone[name], together[f"{layer}.{name}"]) for name in MATRICES)


async def test_without_diagnostics_there_is_nothing_to_rank(client):
    """The ranking needs the diagnostics, and is empty where they are not included."""
    answer = await example(client, include=["key_share"])
    assert answer["ranking"] == []
    assert all("diagnostics" not in group for group in answer["groups"])


async def test_an_ignored_entry_is_listed_without_groups_too(client):
    """A stored output beside a query is listed in omitted, after what else was omitted."""
    content = file_of({"query": QUERY, "output": QUERY, "10.x": VALUE, "9.x": VALUE})
    answer = await send(
        client, content, "application/json", request='{"ignore_unknown":true,"include":[]}'
    )
    AttentionAnswer.model_validate(answer)
    assert sorted(answer["omitted"]) == ["10.x", "9.x", "output"]
    assert answer["omitted"].index("9.x") < answer["omitted"].index("10.x")


@pytest.mark.parametrize("accept", ["application/json", BINARY])
@pytest.mark.parametrize("encoding", ["application/json", BINARY])
async def test_every_layer_of_the_model_agrees_over_http(client, accept, encoding):
    """All six layers give the model's own output and weights within 1e-5, in and out both ways."""
    theirs = load(EXAMPLE.read_bytes())
    for layer in range(6):
        own = {name: theirs[f"layer{layer}.{name}"] for name in ("query", "key", "value")}
        request = {"include": ["output", "weights"]}
        if encoding == BINARY:
            content = file_of({**own, "key_lengths": theirs["key_lengths"]})
            answer = await send(client, content, accept, request=json.dumps(request))
        else:
            request["inputs"] = {"kind": "tensors", **{n: t.tolist() for n, t in own.items()}}
            request["mask"] = {"key_lengths": theirs["key_lengths"].tolist()}
            answer = await ask(client, request, accept=accept)
        found = load(answer) if accept == BINARY else answer
        for name in ("output", "weights"):
            expected = theirs[f"layer{layer}.{name}"]
            torch.testing.assert_close(
                torch.as_tensor(found[name]), expected, rtol=0, atol=1e-5, msg=f"{layer} {name}"
            )


async def test_the_request_that_the_contract_shows_is_answered(client):
    """Every field of the documented example is taken, and echoed as resolved."""
    request = {
        "mechanism": {
            "kind": "scaled_dot_product",
            "scale": None,
            "softcap": None,
            "normalizer": "softmax",
            "qk_norm": "none",
        },
        "inputs": {
            "kind": "seeded",
            "seed": 7,
            "batch": 2,
            "heads": 8,
            "query_length": 10,
            "key_length": 12,
            "d_k": 64,
        },
        "mask": {"causal": "lower_right"},
        "include": ["output", "weights", "diagnostics"],
        "compute": {"device": "auto", "dtype": None, "nonfinite": "refuse"},
        "tensor_format": "nested",
    }
    answer = await ask(client, request)
    assert answer["mechanism"] == {**request["mechanism"], "scale": 0.125}
    assert answer["mask"]["resolved_offset"] == [2, 2]


async def test_the_threshold_of_sparsity_is_stated(client):
    """The default and a given threshold stand beside the figure."""
    for item, threshold in (("sparsity", 0.01), ({"name": "sparsity", "threshold": 0.3}, 0.3)):
        answer = await ask(client, {"include": [item]})
        assert answer["diagnostics"]["sparsity"]["threshold"] == threshold


async def test_counts_come_with_advice_even_without_diagnostics(client):
    """A finite mask of −3e38 is counted, and what to do is said, whatever is included."""
    mask = {"bias": [[0, -3e38], [0, 0]]}
    inputs = {"kind": "tensors", "query": [[1, 0], [0, 1]]}
    answer = await ask(client, {"inputs": inputs, "mask": mask, "include": ["output"]})
    assert answer["numerics"]["near_forbidden"] == 1
    assert "forbid_below" in answer["numerics"]["advice"][0]
