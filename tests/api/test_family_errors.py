import json

import pytest
import torch

from tests.builders import normal
from tests.files import file_of

pytestmark = pytest.mark.anyio

PATH = "/v1/attention"
BINARY = "application/x-safetensors"
CANARY = "canary-71d0-never-repeated"
TAGS = ("scaled_dot_product", "additive", "multiplicative", "multi_head", "given", "seeded",
        "tensors", "options", "perturbation", "gradients")  # fmt: skip
INVALID, SHAPE = "invalid-request", "shape-mismatch"
WEIGHTS = {"query_weight": [[1, 2]], "key_weight": [[1, 2]], "score_vector": [1]}
HEADS = {"query_weight": [[1, 2]] * 2, "key_weight": [[1, 2]] * 2, "value_weight": [[1, 2]] * 2,
         "output_weight": [[1, 2]]}  # fmt: skip


def refusing(answer, status=422):
    """The problem, which repeats nothing of the caller's values and names no union's tag."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert CANARY not in answer.text
    for fault in body["errors"]:
        assert not set(fault["pointer"].split("/")) & set(TAGS)
    return body


def additive(**changes):
    parameters = {"kind": "given", **WEIGHTS, **changes}
    return {"kind": "additive", "parameters": {n: v for n, v in parameters.items() if v != "-"}}


def multi_head(**changes):
    options = {n: changes.pop(n) for n in ("heads", "kv_heads") if n in changes}
    parameters = {"kind": "given", **HEADS, **changes}
    given = {n: v for n, v in parameters.items() if v != "-"}
    return {"kind": "multi_head", "heads": 2, **options, "parameters": given}


PLACE = "/mechanism/parameters"
MECHANISMS = [
    ({"kind": CANARY}, INVALID, "/mechanism/kind", "multi_head"),
    ({"kind": 3}, INVALID, "/mechanism/kind", "multi_head"),
    ({"kind": None}, INVALID, "/mechanism/kind", "multi_head"),
    ({"kind": [CANARY]}, INVALID, "/mechanism/kind", "multi_head"),
    ([CANARY], INVALID, "/mechanism", "object"),
    ({"kind": "additive", "parameters": {"kind": CANARY}}, INVALID, f"{PLACE}/kind", "seeded"),
    ({"kind": "additive", "parameters": {"kind": 3}}, INVALID, f"{PLACE}/kind", "given"),
    ({"kind": "additive", "parameters": CANARY}, INVALID, PLACE, "object"),
    ({"kind": "additive", "parameters": None}, INVALID, PLACE, "object"),
    ({"kind": "additive", "parameters": {"seed": CANARY}}, INVALID, f"{PLACE}/seed", "integer"),
    ({"kind": "additive", "parameters": {"seed": -1}}, INVALID, f"{PLACE}/seed", "0"),
    ({"kind": "additive", "parameters": {"seed": 2**63}}, INVALID, f"{PLACE}/seed", "less"),
    ({"kind": "additive", "parameters": {"hidden_dim": 0}}, INVALID, f"{PLACE}/hidden_dim", "1"),
    ({"kind": "additive", "parameters": {"hidden_dim": 2.5}}, INVALID, f"{PLACE}/hidden_dim", ""),
    ({"kind": "additive", "parameters": {CANARY[:6]: 1}}, INVALID, f"{PLACE}/{CANARY[:6]}",
     "known are kind, seed, hidden_dim"),
    ({"kind": "multi_head", "parameters": {"hidden_dim": 4}}, INVALID, f"{PLACE}/hidden_dim",
     "known are kind, seed"),
    ({"kind": "multi_head", "score": "dot"}, INVALID, "/mechanism/score", "heads, kv_heads"),
    ({"kind": "scaled_dot_product", "parameters": {}}, INVALID, PLACE, "known are scale"),
    ({"kind": "multiplicative", "score": CANARY}, INVALID, "/mechanism/score", "concat"),
    ({"kind": "multiplicative", "parameters": {"kind": "given", "weight": [[1]]}}, INVALID, PLACE,
     "score dot has no weights"),
    ({"kind": "multiplicative", "score": "general",
      "parameters": {"kind": "given", "weight": [[1, 2]] * 2, "score_vector": [1]}}, INVALID,
     f"{PLACE}/score_vector", "its weights are weight"),
    ({"kind": "multiplicative", "score": "concat",
      "parameters": {"kind": "given", "weight": [[1, 2, 3, 4]]}}, INVALID,
     f"{PLACE}/score_vector", "missing"),
    ({"kind": "multiplicative", "score": "general", "qk_norm": "l2"}, INVALID,
     "/mechanism/qk_norm", "dot product"),
    ({"kind": "additive", "qk_norm": "rms"}, INVALID, "/mechanism/qk_norm", "dot product"),
    (additive(query_weight="-"), INVALID, f"{PLACE}/query_weight", ""),
    (additive(query_weight=[[CANARY]]), INVALID, f"{PLACE}/query_weight", ""),
    (additive(query_weight=[[1, 2], [3]]), INVALID, f"{PLACE}/query_weight", ""),
    (additive(query_weight=[[1, 2, 3]]), SHAPE, f"{PLACE}/query_weight", "[1, 2]"),
    (additive(score_vector=[1, 2]), SHAPE, f"{PLACE}/score_vector", "shape [1]"),
    (additive(bias=[1, 2]), SHAPE, f"{PLACE}/bias", "[1]"),
    (additive(weight=[[1]]), INVALID, f"{PLACE}/weight",
     "known are kind, query_weight, key_weight, score_vector, bias"),
    (additive(score_vector=[]), SHAPE, None, ""),
    (multi_head(output_weight="-"), INVALID, f"{PLACE}/output_weight", ""),
    (multi_head(query_weight=[1, 2]), SHAPE, f"{PLACE}/query_weight", "rank 2"),
    (multi_head(heads=3), INVALID, f"{PLACE}/query_weight", "3 heads"),
    (multi_head(key_weight=[[1, 2, 3]] * 2), SHAPE, f"{PLACE}/key_weight", "[2, 2]"),
    (multi_head(value_bias=[1, 2, 3]), SHAPE, f"{PLACE}/value_bias", "[2]"),
    (multi_head(heads=2, kv_heads=3), SHAPE, "/mechanism/kv_heads", "multiple"),
    (multi_head(heads=0), INVALID, "/mechanism/heads", "1"),
    (multi_head(in_proj_weight=[[1]]), INVALID, f"{PLACE}/in_proj_weight", "known are kind"),
]  # fmt: skip


@pytest.mark.parametrize(("mechanism", "slug", "place", "said"), MECHANISMS)
async def test_a_bad_mechanism_says_what_and_where(client, mechanism, slug, place, said):
    """Pointers name the caller's own fields, and the detail what is expected there."""
    inputs = {"kind": "tensors", "query": [[1, 2], [3, 4], [5, 6]]}
    answer = await client.post(PATH, json={"mechanism": mechanism, "inputs": inputs})
    body = refusing(answer)
    assert body["type"] == f"/problems/{slug}"
    if place is not None:
        assert body["errors"][0]["pointer"] == place
    assert said in body["errors"][0]["detail"]


INCLUDES = [
    ({"name": "perturbation", "relative_noise": 0}, "/include/0/relative_noise", "greater"),
    ({"name": "perturbation", "relative_noise": 1.5}, "/include/0/relative_noise", "less"),
    ({"name": "perturbation", "relative_noise": CANARY}, "/include/0/relative_noise", "number"),
    ({"name": "perturbation", "seed": -1}, "/include/0/seed", "0"),
    ({"name": "perturbation", "noise": 1}, "/include/0/noise",
     "known are name, seed, relative_noise"),
    ({"name": "gradients", "seed": 1.5}, "/include/0/seed", "integer"),
    ({"name": "gradients", "threshold": 1}, "/include/0/threshold", "known are name, seed"),
    ({"name": "flip_margin", "seed": 1}, "/include/0/seed", "known are name"),
    ({"name": CANARY}, "/include/0/name", "flip_margin"),
    ({"name": [CANARY]}, "/include/0/name", ""),
    ({"seed": 1}, "/include/0/name", "required"),
]  # fmt: skip


@pytest.mark.parametrize(("item", "place", "said"), INCLUDES)
async def test_a_bad_include_says_what_and_where(client, item, place, said):
    """The options of an included item are strict, and its errors point at them."""
    body = refusing(await client.post(PATH, json={"include": [item]}))
    assert body["errors"][0]["pointer"] == place
    assert said.lower() in body["errors"][0]["detail"].lower()


async def test_what_is_not_finite_names_the_weight(client):
    """NaN in a learned weight is refused with its name and place, and propagated where asked."""
    weights = {"query_weight": normal(5, 3), "key_weight": normal(5, 3), "score_vector": normal(5)}
    weights["key_weight"][2, 1] = float("nan")
    tensors = {"query": normal(7, 3), **{f"parameters.{n}": t for n, t in weights.items()}}
    request = {"mechanism": {"kind": "additive"}, "include": ["diagnostics", "gradients"]}
    body = refusing(await post(client, tensors, request))
    assert body["type"] == "/problems/non-finite"
    assert body["errors"][0]["pointer"] == f"{PLACE}/key_weight"
    assert "[2, 1]" in body["detail"]
    answer = await post(client, tensors, {**request, "compute": {"nonfinite": "propagate"}})
    assert answer.status_code == 200, answer.text
    assert answer.json()["numerics"]["nonfinite_inputs"] == 1


async def post(client, tensors, request):
    content = file_of(tensors, {"request": json.dumps(request)})
    return await client.post(PATH, content=content, headers={"content-type": BINARY})


def stacked(**others):
    """A state dict of torch's for model_dim 6, and what is beside it."""
    own = {"in_proj_weight": normal(18, 6), "out_proj.weight": normal(6, 6), **others}
    own = {f"parameters.{n}": t for n, t in own.items() if t is not None}
    return {"query": normal(5, 6), **own}


TORCH = {"mechanism": {"kind": "multi_head", "heads": 3}}
FILES = [
    (stacked(query_weight=normal(6, 6)), TORCH, f"{PLACE}/query_weight", "given twice"),
    (stacked(v_proj_weight=normal(6, 6)), TORCH, f"{PLACE}/value_weight", "given twice"),
    (stacked(output_weight=normal(6, 6)), TORCH, f"{PLACE}/output_weight", "given twice"),
    (stacked(in_proj_weight=normal(17, 6)), TORCH, f"{PLACE}/query_weight", "first axis"),
    (stacked(in_proj_bias=torch.tensor(1.0)), TORCH, f"{PLACE}/query_bias", "first axis"),
    (stacked(in_proj_weight=normal(18, 7)), TORCH, f"{PLACE}/query_weight", "[6, 6]"),
    (stacked(in_proj_weight=None), TORCH, f"{PLACE}/query_weight", ""),
    (stacked(), {}, "/mechanism/kind", "name the mechanism"),
    (stacked(), {"mechanism": {"heads": 3}}, "/mechanism/kind", "name the mechanism"),
    (stacked(), {"mechanism": CANARY}, "/mechanism", "expected an object"),
    (stacked(), {"mechanism": {"kind": "scaled_dot_product"}}, PLACE, "known are scale"),
    (stacked(), {"mechanism": {"kind": "additive"}}, None, ""),
    (stacked(), {"mechanism": {"kind": "multi_head", "heads": 3, "parameters": {"seed": 1}}},
     PLACE, "both in the file"),
    (stacked(weight=normal(6, 6)), TORCH, f"{PLACE}/weight", "known are kind, query_weight"),
]  # fmt: skip


@pytest.mark.parametrize(("tensors", "request_", "place", "said"), FILES)
async def test_a_bad_state_dict_says_what_and_where(client, tensors, request_, place, said):
    """Weights of a file are refused under this service's own names, each given once."""
    body = refusing(await post(client, tensors, request_))
    if place is not None:
        assert body["errors"][0]["pointer"] == place
    assert said in body["errors"][0]["detail"]


@pytest.mark.parametrize("name", ["parameters.nothing", "parameters.", "out_proj.weight"])
async def test_an_entry_that_is_no_weight_is_unknown(client, name):
    """It is refused by name, listing what is known, unless the rest is to be ignored."""
    tensors = {"query": normal(5, 6), name: normal(6, 6)}
    body = refusing(await post(client, tensors, {}))
    assert body["type"] == "/problems/unknown-entry"
    assert "parameters.<name of a learned weight>" in body["detail"]
    answer = await post(client, tensors, {"ignore_unknown": True})
    assert answer.json()["omitted"] == [name]


async def test_the_fault_of_a_group_names_the_group(client):
    """Among many groups the one whose weights do not fit is named."""
    tensors = {f"{group}.query": normal(5, 6) for group in ("a", "b")}
    for group, rows in (("a", 6), ("b", 4)):
        tensors[f"{group}.parameters.weight"] = normal(rows, 6)
    request = {"mechanism": {"kind": "multiplicative", "score": "general"}}
    body = refusing(await post(client, tensors, request))
    assert "group b" in body["detail"]
    assert body["errors"][0]["pointer"] == f"{PLACE}/weight"


@pytest.mark.parametrize("include", [[], ["gradients", "perturbation", "flip_margin"]], ids=str)
@pytest.mark.parametrize(
    "document",
    [
        {"mechanism": {"kind": "additive", "parameters": {"hidden_dim": 2**45}}},
        {"mechanism": {"kind": "multi_head"}, "inputs": {"kind": "seeded", "model_dim": 2**40}},
    ],
)
async def test_a_huge_seeded_weight_is_413(client, document, include):
    """A sixty-byte request for terabytes of weights is refused with the limit it breaks."""
    body = refusing(await client.post(PATH, json={**document, "include": include}), 413)
    assert body["limit"].startswith("ATTENTION_MAX_")
    assert body["needed"] > body["allowed"]
