"""POST /v1/attention/estimate: what a request would cost, without computing it."""

import json

import pytest

from service.settings import Settings
from tests.builders import normal
from tests.files import EXAMPLE, file_of

pytestmark = pytest.mark.anyio
PATH, BINARY = "/v1/attention/estimate", "application/x-safetensors"


async def estimated(client, body, **params):
    answer = await client.post(PATH, json=body, params=params)
    assert answer.status_code == 200, answer.text[:500]
    return answer.json()


async def test_what_is_admitted_is_answered_and_what_is_not_is_refused(client):
    """`admitted` says what POST /v1/attention does, and names the limit it would name."""
    sizes = [{"query_length": n, "heads": 2} for n in (4, 700, 2**13, 2**16)]
    seen = set()
    for size in sizes:
        for include in (["diagnostics"], ["weights"]):
            body = {"inputs": {"kind": "seeded", **size}, "include": include}
            found = await estimated(client, body)
            over = {n for n, limit in found["limits"].items() if limit["needed"] > limit["allowed"]}
            assert found["admitted"] is (not over)
            if found["admitted"] and size["query_length"] > 1000:
                continue
            answer = await client.post("/v1/attention", json=body)
            assert (answer.status_code == 200) is found["admitted"]
            if over:
                refused = answer.json()
                names = {found["limits"][n]["setting"]: found["limits"][n] for n in over}
                assert refused["limit"] in names
                assert refused["needed"] <= names[refused["limit"]]["needed"]
            seen.add(found["admitted"])
    assert seen == {True, False}


async def test_the_answer_has_no_more_bytes_than_estimated(client):
    """In the encoding that is asked about."""
    body = {"inputs": {"kind": "seeded", "query_length": 40}, "include": ["output", "weights"]}
    found = {}
    for kind in ("application/json", BINARY):
        found[kind] = (await estimated(client, body, accept=kind))["answer_bytes"]
        answer = await client.post("/v1/attention", json=body, headers={"accept": kind})
        assert len(answer.content) <= found[kind]
    assert found[BINARY] < found["application/json"]


async def test_a_request_for_terabytes_is_weighed_in_milliseconds(client):
    """Nothing is drawn: integers far beyond 64 bits are bounded, not an error."""
    inputs = {"kind": "seeded", "query_length": 2**50, "key_length": 2**50}
    found = await estimated(client, {"inputs": inputs, "include": ["weights"]})
    assert found["admitted"] is False
    assert found["flops"] == 2**63 - 1
    assert found["limits"]["max_elements"]["what"] == "weights, in elements"


async def test_the_real_models_file_is_weighed_whole(client):
    """A safetensors body, all its groups, with the query parameter of the analysis."""
    answer = await client.post(
        PATH,
        content=EXAMPLE.read_bytes(),
        params={"request": '{"ignore_unknown":true}'},
        headers={"content-type": BINARY},
    )
    assert answer.status_code == 200, answer.text[:500]
    found = answer.json()
    assert found["admitted"] is True
    # Two products of 2 × 12 heads, 19 × 19 pairs and 32 dimensions in 6 layers, at least.
    assert found["flops"] > 6 * 2 * 2 * 24 * 19 * 19 * 32


@pytest.mark.parametrize("settings", [Settings(max_peak_bytes=2**22)])
async def test_limits_are_those_in_force(client, settings):
    """The setting that moves each stands beside it."""
    found = await estimated(client, {})
    limit = found["limits"]["max_peak_bytes"]
    assert limit["allowed"] == 2**22
    assert limit["setting"] == "ATTENTION_MAX_PEAK_BYTES"
    assert limit["needed"] == found["peak_bytes"]
    assert found["admitted"] is False


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"inputs": {"kind": "seeded", "heads": 3, "kv_heads": 2}}, "/inputs"),
        ({"unknown": 1}, "/unknown"),
    ],
)
async def test_what_is_not_valid_is_refused_as_by_the_analysis(client, body, pointer):
    """The same problem from both paths, but for the path."""
    problems = [(await client.post(path, json=body)).json() for path in (PATH, "/v1/attention")]
    assert problems[0]["errors"][0]["pointer"] == pointer
    told = [{k: v for k, v in p.items() if k not in ("instance", "request_id")} for p in problems]
    assert told[0] == told[1]


async def test_only_json_is_written(client):
    """406 for a binary answer; the encoding that is asked about is a query parameter."""
    answer = await client.post(PATH, json={}, headers={"accept": BINARY})
    assert answer.status_code == 406
    wrong = await client.post(PATH, json={}, params={"accept": "image/png"})
    assert wrong.status_code == 422
    content = file_of({"query": normal(2, 3)})
    fine = await client.post(PATH, content=content, headers={"content-type": BINARY})
    assert json.loads(fine.content)["admitted"] is True
