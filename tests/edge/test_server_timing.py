import json
import re

import pytest

from tests.files import response_of

pytestmark = pytest.mark.anyio

SWEEP = {"d_k": [2, 4], "scale": [1], "key_length": [4], "repeats": 1}
TENSORS, PICTURE = "application/x-safetensors", "image/svg+xml"
COMPUTED = [
    ("/v1/attention", {"include": []}, ("application/json", TENSORS, PICTURE, "image/png")),
    ("/v1/softmax", {"logits": [[1, 2]]}, ("application/json", TENSORS)),
    ("/v1/sweeps", SWEEP, ("application/json", TENSORS, "text/csv", "application/x-ndjson",
                           PICTURE)),
    ("/v1/comparisons", {}, ("application/json", TENSORS, PICTURE)),
    ("/v2/models/additive/infer", {"parameters": {"seed": 1}}, ("*/*",)),
]  # fmt: skip
CASES = [(path, body, accept) for path, body, accepted in COMPUTED for accept in accepted]


def timings(answer):
    """The durations of Server-Timing in milliseconds."""
    told = answer.headers["server-timing"]
    assert re.fullmatch(r"\w+;dur=\d+\.\d+(, \w+;dur=\d+\.\d+)*", told)
    return {n: float(ms) for n, ms in re.findall(r"(\w+);dur=([\d.]+)", told)}


@pytest.mark.parametrize(("path", "body", "accept"), CASES)
async def test_every_computed_answer_tells_its_timings(client, path, body, accept):
    """Whatever its encoding: how long it waited, was computed, and took until it was answered."""
    answer = await client.post(path, json=body, headers={"accept": accept})
    assert answer.status_code == 200, answer.text[:300]
    found = timings(answer)
    assert found.keys() == {"queue", "compute", "total"}
    assert found["total"] >= found["queue"] + found["compute"] > 0


@pytest.mark.parametrize("path", ["/v1/attention", "/v1/sweeps"])
@pytest.mark.parametrize("accept", ["application/json", TENSORS])
async def test_header_and_document_tell_the_same(client, path, accept):
    """The timings of the header are those of timing_ms; a sweep's are the sums of its points."""
    body = SWEEP if path == "/v1/sweeps" else {"include": []}
    answer = await client.post(path, json=body, headers={"accept": accept})
    document = response_of(answer.content) if accept == TENSORS else json.loads(answer.content)
    found = timings(answer)
    for name in ("queue", "compute"):
        assert found[name] == pytest.approx(document["timing_ms"][name], abs=0.002)


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/limits"), ("GET", "/nothing"), ("POST", "/v1/attention?nope=1"),
     ("POST", "/v1/attention/estimate")],
)  # fmt: skip
async def test_what_is_not_computed_has_no_timings(client, method, path):
    """Refusals and what is only looked up say nothing of a computation."""
    answer = await client.request(method, path, json={} if method == "POST" else None)
    assert "server-timing" not in answer.headers
