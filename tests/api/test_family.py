import json

import pytest
import torch
from safetensors.torch import load, save

from schemas.attention import AttentionAnswer, GroupedAnswer
from service.mechanisms import MECHANISMS
from service.normalizers import NORMALIZERS
from tests.builders import normal, same_bytes
from tests.files import file_of, response_of
from tests.plain import (
    BATCH,
    D_V,
    HEADS,
    HIDDEN,
    KEYS,
    KINDS,
    KV_HEADS,
    OPERANDS,
    QUERIES,
    case_of,
    plain,
)

pytestmark = pytest.mark.anyio

PATH = "/v1/attention"
BINARY = "application/x-safetensors"
MATRICES = ["output", "weights"]
PAIRS = {"batch": BATCH, "heads": HEADS, "kv_heads": KV_HEADS, "d_q": 4, "d_k": 4, "d_v": D_V}
LENGTHS = {"kind": "seeded", "query_length": QUERIES, "key_length": KEYS}
SHAPES = {
    "additive": {"query_weight": [HIDDEN, 4], "key_weight": [HIDDEN, 4], "score_vector": [HIDDEN]},
    "general": {"weight": [4, 4]},
    "concat": {"weight": [HIDDEN, 8], "score_vector": [HIDDEN]},
    "multi_head": {
        "query_weight": [12, 12],
        "key_weight": [6, 12],
        "value_weight": [6, 12],
        "output_weight": [12, 12],
    },
}


async def ask(client, document, accept="application/json"):
    answer = await client.post(PATH, json=document, headers={"accept": accept})
    assert answer.status_code == 200, answer.text
    if accept == BINARY:
        return answer.content
    return AttentionAnswer.model_validate(answer.json()) and answer.json()


async def send(client, tensors, request, accept=BINARY):
    """The answer to a file of these tensors."""
    content = file_of(tensors, {"request": json.dumps(request)})
    headers = {"content-type": BINARY, "accept": accept}
    answer = await client.post(PATH, content=content, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.content if accept == BINARY else answer.json()


def seeded(kind):
    """A seeded request of a mechanism, with options of its own."""
    mechanism = case_of(kind).mechanism
    mechanism.pop("parameters", None)
    inputs = {**LENGTHS, **PAIRS}
    if kind in SHAPES:
        mechanism["parameters"] = {"kind": "seeded", "seed": 9}
    if kind in ("additive", "concat"):
        mechanism["parameters"]["hidden_dim"] = HIDDEN
    if kind == "multi_head":
        inputs = {**LENGTHS, "batch": BATCH, "model_dim": 12}
    return {"mechanism": mechanism, "inputs": inputs}


def given(case):
    """Mechanism and inputs of a JSON request, tensors as nested lists."""
    request = json.loads(json.dumps(case.request, default=torch.Tensor.tolist))
    return {"mechanism": request["mechanism"], "inputs": request["inputs"]}


def test_every_member_is_asked_here():
    """No mechanism is left out of these tests."""
    assert {seeded(kind)["mechanism"]["kind"] for kind in KINDS} == set(MECHANISMS)


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("kind", KINDS)
async def test_each_mechanism_answers_and_says_what_it_applied(client, kind, normalizer):
    """In both encodings, with the resolved options, the seed of its weights and their shapes."""
    request = seeded(kind)
    request["mechanism"]["normalizer"] = normalizer
    answer = await ask(client, {**request, "include": [*MATRICES, "diagnostics", "gradients"]})
    content = await ask(client, {**request, "include": MATRICES}, BINARY)
    echoed = answer["mechanism"]
    assert echoed == response_of(content)["mechanism"]
    asked = dict(request["mechanism"])
    parameters = asked.pop("parameters", None)
    assert asked.items() <= echoed.items()
    assert echoed["scale"] is not None
    if parameters is None:
        assert "parameters" not in echoed
    else:
        assert {**parameters, "shapes": SHAPES[kind]}.items() <= echoed["parameters"].items()
        assert set(answer["gradients"]["parameters"]) == set(SHAPES[kind])
    for name in MATRICES:
        assert same_bytes(torch.tensor(answer[name]), load(content)[name])
    expected = 12 if kind == "multi_head" else D_V
    assert torch.tensor(answer["output"]).shape[-1] == expected


@pytest.mark.parametrize("accept", [BINARY, "application/json"])
@pytest.mark.parametrize("kind", KINDS)
async def test_given_weights_arrive_the_same_in_every_encoding(client, kind, accept):
    """Nested lists and entries parameters.<name> give the same bits, those of the formulas."""
    case = case_of(kind, dtype=torch.float32)
    include = [*MATRICES, "gradients"]
    found = await ask(client, {**given(case), "include": include}, accept)
    mechanism = {n: v for n, v in case.mechanism.items() if n != "parameters"}
    tensors = {**case.inputs, **{f"parameters.{n}": t for n, t in case.weights.items()}}
    other = await send(client, tensors, {"mechanism": mechanism, "include": include}, accept)
    if accept == BINARY:
        left, right = load(found), load(other)
        assert all(same_bytes(left[name], right[name]) for name in MATRICES)
        found, other, output = response_of(found), response_of(other), left["output"]
    else:
        assert all(found[name] == other[name] for name in MATRICES)
        output = torch.tensor(found["output"])
    assert found["mechanism"] == other["mechanism"]
    assert found["gradients"] == other["gradients"]
    if case.weights:
        assert found["mechanism"]["parameters"]["kind"] == "given"
        assert set(found["gradients"]["parameters"]) == set(case.weights)
    expected = plain(case, case.tensors).output.float()
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("batched", [False, True])
async def test_multi_head_keeps_its_heads_whatever_the_rank(client, batched):
    """Weights are always (batch, head, query, key); the output has the axes of the query."""
    lead = [BATCH] if batched else []
    inputs = {"kind": "tensors", "query": normal(*lead, QUERIES, 12).tolist()}
    inputs["key"] = inputs["value"] = normal(*lead, KEYS, 12).tolist()
    request = {"mechanism": {"kind": "multi_head", "heads": 6}, "inputs": inputs}
    include = [*MATRICES, "logits", "scores", "key_share", "row_diagnostics", "gradients"]
    answer = await ask(client, {**request, "include": include})
    batch = BATCH if batched else 1
    assert list(torch.tensor(answer["output"]).shape) == [*lead, QUERIES, 12]
    for name in ("weights", "logits", "scores"):
        assert torch.tensor(answer[name]).shape == (batch, 6, QUERIES, KEYS)
    assert torch.tensor(answer["key_share"]).shape == (batch, 6, KEYS)
    assert torch.tensor(answer["row_diagnostics"]["entropy"]).shape == (batch, 6, QUERIES)
    gradients = answer["gradients"]
    assert all(torch.tensor(gradients[name]).shape == (batch, 1) for name in OPERANDS)
    inside = gradients["projected"].values()
    assert all(torch.tensor(figure).shape == (batch, 6) for figure in inside)
    assert answer["shape"]["query_dim"] == answer["shape"]["output_dim"] == 12


async def test_groups_have_weights_of_their_own_or_share_them(client):
    """A prefix gives a group its own weight; one without a prefix is that of all the others."""
    case = case_of("additive", dtype=torch.float32)
    own = case.weights["score_vector"].flip(0)
    tensors = {f"{g}.{n}": t for g in ("l0", "l1") for n, t in case.inputs.items()}
    tensors |= {f"parameters.{n}": t for n, t in case.weights.items()}
    tensors["l1.parameters.score_vector"] = own
    request = {"mechanism": {"kind": "additive"}, "include": [*MATRICES, "gradients"]}
    content = await send(client, tensors, request)
    found = load(content)
    expected = plain(case, case.tensors).output.float()
    torch.testing.assert_close(found["l0.output"], expected, rtol=1e-5, atol=1e-5)
    case.weights["score_vector"] = own
    expected = plain(case, case.tensors).output.float()
    torch.testing.assert_close(found["l1.output"], expected, rtol=1e-5, atol=1e-5)
    answer = await send(client, tensors, request, "application/json")
    GroupedAnswer.model_validate(answer)
    assert [group["name"] for group in answer["groups"]] == ["l0", "l1"]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("own_dims", [False, True], ids=["in_proj", "kdim and vdim"])
async def test_a_state_dict_of_torch_is_taken_as_it_is(client, own_dims, bias):
    """torch.nn.MultiheadAttention's weights, posted under its own names, give its output."""
    torch.manual_seed(3)
    dims = {"kdim": 14, "vdim": 15} if own_dims else {}
    module = torch.nn.MultiheadAttention(12, 6, batch_first=True, bias=bias, **dims).eval()
    if bias:
        torch.nn.init.normal_(module.in_proj_bias)
        torch.nn.init.normal_(module.out_proj.bias)
    key_dim, value_dim = (14, 15) if own_dims else (12, 12)
    inputs = {
        "query": normal(BATCH, QUERIES, 12, seed=1),
        "key": normal(BATCH, KEYS, key_dim, seed=2),
        "value": normal(BATCH, KEYS, value_dim, seed=3),
    }
    with torch.inference_mode():
        output, weights = module(*inputs.values(), average_attn_weights=False)
    state = {f"parameters.{name}": t for name, t in module.state_dict().items()}
    request = {"mechanism": {"kind": "multi_head", "heads": 6}, "include": MATRICES}
    content = save({**inputs, **state}, {"request": json.dumps(request)})
    headers = {"content-type": BINARY, "accept": BINARY}
    answer = await client.post(PATH, content=content, headers=headers)
    assert answer.status_code == 200, answer.text
    found = load(answer.content)
    torch.testing.assert_close(found["output"], output, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found["weights"], weights, rtol=1e-5, atol=1e-6)


async def test_a_state_dict_of_each_layer_serves_its_group(client):
    """Two layers in one file, each under its own prefix, give each layer's output."""
    torch.manual_seed(4)
    layers = {f"layer{i}": torch.nn.MultiheadAttention(12, 3, batch_first=True) for i in (2, 10)}
    query = normal(BATCH, QUERIES, 12, seed=1)
    tensors, expected = {}, {}
    for name, module in layers.items():
        tensors[f"{name}.query"] = query
        for weight, tensor in module.state_dict().items():
            tensors[f"{name}.parameters.{weight}"] = tensor
        with torch.inference_mode():
            expected[name] = module.eval()(query, query, query)[0]
    request = {"mechanism": {"kind": "multi_head", "heads": 3}, "include": ["output"]}
    found = load(await send(client, tensors, request))
    for name, output in expected.items():
        torch.testing.assert_close(found[f"{name}.output"], output, rtol=1e-5, atol=1e-5)


async def test_harms_are_in_the_answer_with_their_evidence(client):
    """Gradients, sparsity and perturbation come with figures, reasons and evidence."""
    include = ["gradients", "sparsity", "perturbation", "flip_margin", "diagnostics"]
    answer = await ask(client, {"mechanism": {"kind": "additive"}, "include": include})
    assert answer["gradients"]["closed_form"]["query"] is None
    assert "dot-product" in answer["gradients"]["closed_form"]["reason"]
    assert answer["gradients"]["relative_to_uniform"]["query"][0][0] > 0
    assert "dot-product" in answer["diagnostics"]["flip_margin"]["reason"]
    evidence = {item["name"]: item for item in answer["verdict"]["evidence"]}
    for name in ("gradient_vanished_rows", "sparsity", "perturbation_amplification"):
        assert evidence[name]["holds"] is (evidence[name]["value"] > evidence[name]["threshold"])


OVERFLOWING = {
    "mechanism": {"kind": "multi_head", "scale": 1e38},
    "inputs": {"kind": "seeded", "model_dim": 16, "std": 1e6},
    "include": ["gradients", "diagnostics"],
}


async def test_gradients_past_every_number_are_no_fault_of_the_answer(client):
    """Rows whose logits overflow are in no gradient, and the answer is still one of its schema."""
    answer = await ask(client, OVERFLOWING)
    assert answer["numerics"]["overflowed_logits"] > 0
    assert answer["gradients"]["query"] == [[0.0]]
