"""Every place of a request with everything that does not belong there: told, never a 500."""

import json

import pytest

from service.settings import Settings
from tests.mutations import places, replaced

pytestmark = pytest.mark.anyio

CANARY = "canary-7c1e-never-repeated"
# fmt: off
VALUES = [
    None, True, 0, 1, -1, 2, 0.5, -0.0, 1e308, -1e308, 5e-324, 2**63, 2**70, -(2**63), "", CANARY,
    "1/sqrt(d_k)", [], [[]], [None], [CANARY], [[1, 2], [3]], [1e308, -1e308, 1e30], {},
    {"kind": CANARY}, {CANARY: 1}, {"kind": "seeded", "seed": 2**62},
    {"shape": [2, 2], "data": [1, 2, 3, 4]}, {"kind": "log_length", "base": 1.0000001},
    "\ud800", "猫" * 70,
]
# fmt: on
REQUESTS = {
    "/v1/softmax": {"logits": [[1.0, 2.0], [None, 3.0]], "jacobian": True, "tensor_format": "flat"},
    "/v1/sweeps": {
        "d_k": [2, 3],
        "scale": ["1/sqrt(d_k)", 0.5],
        "key_length": [3],
        "query_length": 2,
        "repeats": 2,
        "seed": 3,
        "include": ["gradients", "sparsity"],
    },
    "/v1/comparisons": {
        "inputs": {"kind": "seeded", "heads": 2, "query_length": 3, "d_k": 4, "std": 3.0},
        "mask": {"causal": "upper_left", "window": {"left": 2}, "bias": [[0.0, 1.0, None]]},
        "variants": [
            {"label": "a", "mechanism": {"kind": "scaled_dot_product", "scale": 2.0}},
            {"label": "b", "mechanism": {"kind": "additive", "parameters": {"hidden_dim": 3}}},
        ],
        "target": {"saturated_share_max": 0.1},
        "compute": {"dtype": "float64"},
    },
    "/v1/attention/estimate": {
        "inputs": {"kind": "tensors", "query": [[1, 2]], "key": [[1, 2], [3, 4]]},
        "labels": {"query": ["a"]},
        "include": ["output", {"name": "sparsity", "threshold": 0.1}],
    },
}
ACCEPTED = {"/v1/sweeps": ["application/json", "application/x-ndjson", "image/svg+xml"]}
REFUSED = {400, 413, 422}


def variations(document):
    """Every value in every place, every field left out, and one too many in every object."""
    for path in places(document):
        for value in VALUES:
            yield replaced(document, path, value)
    for path in places(document):
        inner = document
        for step in path:
            inner = inner[step]
        if isinstance(inner, dict):
            yield replaced(document, path, {**inner, CANARY: 0})
            for name in inner:
                yield replaced(document, path, {n: v for n, v in inner.items() if n != name})


def check_answer(answer, sent):
    """JSON without NaN where it is one; an error in the one shape, which repeats nothing."""
    assert answer.status_code in {200, *REFUSED}, (answer.status_code, sent, answer.text[:300])
    kind = answer.headers["content-type"]
    if kind in ("application/json", "application/problem+json"):
        body = json.loads(answer.text, parse_constant=pytest.fail)
        if answer.status_code != 200:
            assert kind == "application/problem+json"
            assert set(body) >= {"type", "title", "status", "detail", "errors", "error"}
            assert len(answer.content) <= 16_384
            assert "pydantic" not in answer.text
            values = answer.text.replace(f"/{CANARY}", "")  # its own field name may be pointed to
            assert CANARY not in values, sent
            assert all(fault["pointer"][:1] in ("", "/") for fault in body["errors"])
    if kind == "application/x-ndjson":
        for line in answer.text.splitlines():
            assert "problem" not in json.loads(line, parse_constant=pytest.fail), sent


@pytest.mark.parametrize("settings", [Settings(max_flops=10**10, max_elements=2**16)])
@pytest.mark.parametrize("path", REQUESTS)
async def test_nothing_in_any_place_is_a_500(client, path):
    """Thousands of requests that make no sense, or a strange one."""
    seen, kinds = {}, ACCEPTED.get(path, ["application/json"])
    for number, document in enumerate(variations(REQUESTS[path])):
        body = json.dumps(document)
        headers = {"accept": kinds[number % len(kinds)], "content-type": "application/json"}
        answer = await client.post(path, content=body, headers=headers)
        check_answer(answer, body[:500])
        seen[answer.status_code] = seen.get(answer.status_code, 0) + 1
    assert seen[200] > 30
    assert seen[422] > 100
    assert seen[400] + seen[422] > 200
