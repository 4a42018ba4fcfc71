"""POST /v1/softmax."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load

from service.laboratory.softmax import jacobian
from tests.builders import normal, plain_figures
from tests.files import file_of, response_of

pytestmark = pytest.mark.anyio
PATH, BINARY = "/v1/softmax", "application/x-safetensors"


async def answer_to(client, **body):
    answer = await client.post(PATH, json=body)
    assert answer.status_code == 200, answer.text[:500]
    return answer.json()


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5), (2, 7, 3, 5)], ids=str)
async def test_logits_of_every_rank(client, shape):
    """Weights have the axes of the logits, Jacobians one more, figures (batch, head, query)."""
    logits = normal(*shape, seed=3)
    answer = await answer_to(client, logits=logits.tolist(), jacobian=True)
    weights = torch.tensor(answer["weights"], dtype=torch.float64)
    expected = torch.softmax(logits.double(), -1)
    torch.testing.assert_close(weights, expected, rtol=1e-5, atol=1e-7)
    found = torch.tensor(answer["jacobian"], dtype=torch.float64)
    assert found.shape == (*shape, 5)
    whole = torch.diag_embed(expected) - expected.unsqueeze(-1) * expected.unsqueeze(-2)
    torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-7)
    lead = (1,) * (4 - len(shape)) if len(shape) > 1 else (1, 1, 1)
    rows = (*lead, *shape)[:3] if len(shape) < 3 else four_of(shape)
    entropy = torch.tensor(answer["row_diagnostics"]["entropy"])
    assert entropy.shape == rows
    plain = plain_figures(logits)["entropy"].float().reshape(rows)
    torch.testing.assert_close(entropy, plain, rtol=1e-5, atol=1e-6)
    assert answer["verdict"]["rows"] == entropy.numel()


def four_of(shape):
    """(batch, head, query) of logits of rank 3 or 4."""
    return (shape[0], 1, shape[1]) if len(shape) == 3 else shape[:3]


async def test_it_says_what_the_analysis_of_these_logits_says(client):
    """The same weights, figures and verdict as POST /v1/attention with inputs of kind logits."""
    logits = (5 * normal(3, 9, seed=1)).tolist()
    lens = await answer_to(client, logits=logits)
    include = ["weights", "diagnostics", "row_diagnostics"]
    body = {"inputs": {"kind": "logits", "logits": logits}, "include": include}
    whole = (await client.post("/v1/attention", json=body)).json()
    for name in (*include, "verdict", "numerics"):
        assert lens[name] == whole[name]
    assert "jacobian" not in lens


async def test_a_hidden_key_has_neither_weight_nor_gradient(client):
    """Null is minus infinity: 0 in the weights, a row and a column of 0 in the Jacobian."""
    answer = await answer_to(client, logits=[2.0, None, 1.0], jacobian=True)
    assert answer["weights"][1] == 0
    assert answer["jacobian"][1] == [0, 0, 0]
    assert [row[1] for row in answer["jacobian"]] == [0, 0, 0]
    assert answer["row_diagnostics"]["visible_keys"] == [[[2]]]


async def test_a_row_without_a_key_is_all_zeros(client):
    """Weights 0, Jacobian 0, no figure, no NaN."""
    answer = await answer_to(client, logits=[[None, None], [0, 0]], jacobian=True)
    assert answer["weights"][0] == [0, 0]
    assert answer["jacobian"][0] == [[0, 0], [0, 0]]
    assert answer["row_diagnostics"]["entropy"][0][0][0] is None
    assert answer["numerics"]["fully_masked_rows"] == 1


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.0, 60.0), st.integers(2, 12))
def test_the_jacobian_keeps_its_digits_on_saturated_rows(seed, gap, keys):
    """Trace and entries to 1e-5 relative in float32, up to a gap of 60, where p − p² has none."""
    logits = normal(keys, seed=seed)
    logits[seed % keys] = logits.max() + gap
    # What softmax itself rounds is not the question: both start from the same weights' tail.
    wide = torch.softmax(logits.double(), -1)
    found = jacobian(wide.float()).double()
    a = int(wide.argmax())
    rest = wide.clone()
    rest[a] = 0
    assert float(found[a, a]) == pytest.approx(float(wide[a] * rest.sum()), rel=2e-5)
    torch.testing.assert_close(found[a], found[:, a])
    assert float(found.sum(-1).abs().max()) <= 1e-5 * float(found.abs().max())
    assert float(torch.linalg.eigvalsh(found)[0]) >= -1e-6


async def test_the_gradient_is_the_jacobians(client):
    """J g is what autograd gives for ⟨g, softmax(s)⟩."""
    logits, upstream = normal(6, seed=5), normal(6, seed=6)
    leaf = logits.clone().requires_grad_()
    (torch.softmax(leaf, -1) @ upstream).backward()
    answer = await answer_to(client, logits=logits.tolist(), jacobian=True)
    torch.testing.assert_close(torch.tensor(answer["jacobian"]) @ upstream, leaf.grad)


async def test_safetensors_both_ways(client):
    """An entry `logits`, the rest in the query or the metadata; float64 stays float64."""
    logits = normal(3, 4, dtype=torch.float64)
    content = file_of({"logits": logits}, {"request": '{"jacobian":true}'})
    headers = {"content-type": BINARY, "accept": BINARY}
    answer = await client.post(PATH, content=content, headers=headers)
    assert answer.status_code == 200, answer.text[:500]
    found = load(answer.content)
    torch.testing.assert_close(found["weights"], torch.softmax(logits, -1), rtol=1e-12, atol=0)
    assert found["jacobian"].shape == (3, 4, 4)
    assert found["diagnostics.entropy"].shape == (1, 1, 3)
    assert response_of(answer.content)["verdict"]["rows"] == 3
    query = {"request": '{"jacobian":false}'}
    plain = await client.post(PATH, content=content, headers=headers, params=query)
    assert "jacobian" not in load(plain.content)


async def test_tensor_formats(client):
    """Flat and base64, as elsewhere."""
    answer = await answer_to(client, logits=[[1, 2]], tensor_format="flat", jacobian=True)
    assert answer["weights"]["shape"] == [1, 2]
    assert answer["jacobian"]["shape"] == [1, 2, 2]


@pytest.mark.parametrize(
    ("body", "status", "pointer", "said"),
    [
        ({}, 422, "/logits", "required"),
        ({"logits": 3}, 422, "/logits", "nested list"),
        ({"logits": []}, 422, "/logits", "no empty axis"),
        ({"logits": [[1, 2], [3]]}, 422, "/logits", "ragged"),
        ({"logits": [[[[[1]]]]]}, 422, "/logits", "at most 4 axes"),
        ({"logits": [0.0] * 257, "jacobian": True}, 422, "/jacobian", "at most 256 keys"),
        ({"logits": [1], "jacobian": 1}, 422, "/jacobian", "found a number"),
        ({"logits": [1], "temperature": 2}, 422, "/temperature", "known are logits, jacobian"),
    ],
)  # fmt: skip
async def test_what_is_wrong_is_told(client, body, status, pointer, said):
    """With a pointer, and what is expected."""
    answer = await client.post(PATH, json=body)
    assert answer.status_code == status
    (fault,) = answer.json()["errors"]
    assert fault["pointer"] == pointer
    assert said.lower() in fault["detail"].lower()


async def test_other_entries_are_refused(client):
    """A file of queries is for another path; logits in both places are refused too."""
    headers = {"content-type": BINARY}
    content = file_of({"query": normal(2, 3)})
    answer = await client.post(PATH, content=content, headers=headers)
    assert answer.status_code == 422
    assert answer.json()["type"] == "/problems/unknown-entry"
    both = file_of({"logits": normal(2)}, {"request": '{"logits":[1]}'})
    answer = await client.post(PATH, content=both, headers=headers)
    assert answer.json()["errors"][0]["pointer"] == "/logits"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
async def test_what_is_not_finite_is_found_in_the_callers_own_tensor(client, bad):
    """The pointer and the index are those of `logits` as they were sent; −∞ is a hidden key."""
    content = file_of({"logits": torch.tensor([1.0, -math.inf, bad])})
    answer = await client.post(PATH, content=content, headers={"content-type": BINARY})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/logits"
    assert "the first at [2]" in answer.json()["detail"]
    assert "nonfinite" not in answer.json()["detail"]


async def test_no_zero_of_a_jacobian_is_negative(client):
    """A hidden key has plain zeros."""
    answer = await client.post(PATH, json={"logits": [1, None], "jacobian": True})
    assert "-0.0" not in answer.text


async def test_256_keys_are_enough_for_a_jacobian(client):
    """The bound itself is within it."""
    answer = await answer_to(client, logits=[0.0] * 256, jacobian=True)
    assert answer["jacobian"][0][0] == pytest.approx(1 / 256 * (1 - 1 / 256))
    assert answer["row_diagnostics"]["entropy"][0][0][0] == pytest.approx(math.log(256))
