import asyncio

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from service.api.computing import COUNTED_AS
from service.api.problems import known_problems
from service.engine import devices
from service.metrics import Metrics
from tests.serving import scope_of, send_to, serving
from tests.waiting import until

pytestmark = pytest.mark.anyio

PATH = "/v1/attention"
SMALL = {"include": []}


async def measured(client):
    """Every sample of a scrape: (name, labels) to value."""
    answer = await client.get("/metrics")
    assert answer.status_code == 200
    families = plain(answer.text)
    return {
        (s.name, frozenset(s.labels.items())): s.value
        for family in families
        for s in family.samples
    }


def value(samples, name, **labels):
    return samples.get((f"attention_{name}", frozenset(labels.items())), 0.0)


def requests(samples, route, status, method="POST"):
    return value(samples, "requests_total", route=route, method=method, status=str(status))


async def test_a_scrape_is_prometheus_text(client):
    """Without a wish it is the text that every scraper reads; each family says what it is."""
    answer = await client.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = list(plain(answer.text))
    own = [family for family in families if family.name.startswith("attention_")]
    assert len(own) >= 11
    assert all(family.documentation for family in own)
    names = {family.name for family in families}
    assert {"process_resident_memory_bytes", "process_open_fds", "python_gc_collections"} <= names


async def test_a_scrape_is_openmetrics_where_wished(client):
    """Prometheus' own Accept gets OpenMetrics; what is written neither way is refused."""
    wish = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3"
    answer = await client.get("/metrics", headers={"accept": wish})
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert answer.text.endswith("# EOF\n")
    assert any(family.name == "attention_requests" for family in openmetrics(answer.text))
    assert (await client.get("/metrics", headers={"accept": "image/png"})).status_code == 406


@pytest.mark.parametrize(
    "accept",
    ["application/openmetrics-text;version=x.y", "text/plain;version=\xff", ";;,,;q=", "*/*"],
)
async def test_an_odd_wish_is_no_fault_of_the_service(client, accept):
    """Whatever stands in Accept, a scrape is answered or refused, never a 500."""
    answer = await client.get("/metrics", headers={"accept": accept.encode("latin-1")})
    assert answer.status_code in (200, 406)


async def test_requests_are_counted_by_route_and_status(client):
    """Each answer counts once, under its route's template, method and status."""
    for document in (SMALL, SMALL, {"nope": 1}):
        await client.post(PATH, json=document)
    await client.get("/problems/busy")
    await client.get("/problems/nope")
    await client.get(PATH)
    found = await measured(client)
    assert requests(found, PATH, 200) == 2
    assert requests(found, PATH, 422) == 1
    assert requests(found, PATH, 405, "GET") == 1
    assert requests(found, "/problems/{slug}", 200, "GET") == 1
    assert requests(found, "/problems/{slug}", 404, "GET") == 1
    assert value(found, "request_duration_seconds_count", route=PATH) == 4
    assert value(found, "request_duration_seconds_sum", route=PATH) > 0


async def test_what_is_computed_is_measured(client):
    """Queue wait, batch size and computing time by mechanism grow with what is computed."""
    before = await measured(client)
    assert value(before, "batch_size_count") == value(before, "queue_wait_seconds_count") == 0
    for kind in ("scaled_dot_product", "additive", "additive"):
        await client.post(PATH, json={"mechanism": {"kind": kind}, **SMALL})
    await client.post("/v1/softmax", json={"logits": [[1, 2]]})
    await client.post(
        "/v1/sweeps", json={"d_k": [2], "scale": [1], "key_length": [4], "repeats": 1}
    )
    variants = [{"label": k, "mechanism": {"kind": k}} for k in ("scaled_dot_product", "additive")]
    await client.post("/v1/comparisons", json={"variants": variants})
    found = await measured(client)
    counts = {
        name: value(found, "compute_seconds_count", mechanism=name)
        for name in (*COUNTED_AS, "other")
    }
    assert {name: n for name, n in counts.items() if n} == {
        "scaled_dot_product": 2, "additive": 2, "given": 1, "several": 1,
    }  # fmt: skip
    assert value(found, "compute_seconds_sum", mechanism="additive") > 0
    assert value(found, "batch_size_count") == value(found, "batch_size_sum") == 6
    assert value(found, "queue_wait_seconds_count") == 6


async def test_problems_are_counted_by_their_type():
    """Every error has its reason, the edge's own too."""
    key = {"Authorization": "Bearer 0123456789abcdef"}
    async with serving(api_key="0123456789abcdef", max_elements=10) as client:
        await client.get("/v1/limits")
        await client.get("/nothing", headers=key)
        await client.post(PATH, json={}, headers=key)
        await client.post(PATH, content=b"{", headers=key)
        found = await measured(client)
    for reason in ("unauthorized", "not-found", "limit-exceeded", "malformed-body"):
        assert value(found, "rejections_total", reason=reason) == 1, reason
    assert value(found, "rejections_total", reason="busy") == 0


async def test_an_unexpected_error_is_counted(client, monkeypatch):
    """A 500 is seen by whoever watches."""
    monkeypatch.setattr("service.api.attention.prepare", lambda *_, **__: 1 / 0)
    await client.post(PATH, json={})
    found = await measured(client)
    assert requests(found, PATH, 500) == 1
    assert value(found, "rejections_total", reason="internal-error") == 1


async def test_a_problem_within_a_stream_is_counted():
    """An answer whose status was sent before it failed counts as rejected all the same."""
    async with serving(deadline_s=0.5) as client:
        grid = {"d_k": [64] * 100, "repeats": 16}
        headers = {"accept": "application/x-ndjson"}
        answer = await client.post("/v1/sweeps", json=grid, headers=headers)
        found = await measured(client)
    assert "/problems/deadline-exceeded" in answer.text
    assert value(found, "rejections_total", reason="deadline-exceeded") == 1


@pytest.mark.parametrize("arrived", [True, False], ids=["computing", "sending its body"])
async def test_a_caller_that_leaves_is_counted_as_cancelled(client, arrived):
    """Who goes away, while computing or before the body is whole, is a 499 and no fault."""
    document = b'{"inputs":{"kind":"seeded","query_length":16384},"include":["diagnostics"]}'
    messages = [{"type": "http.request", "body": document, "more_body": not arrived}]

    async def receive():
        await asyncio.sleep(0.05)
        return messages.pop() if messages else {"type": "http.disconnect"}

    sent = await send_to(client._transport.app, scope_of(), receive)
    found = await measured(client)
    assert sent[0]["status"] == 499
    assert value(found, "cancelled_total") == 1
    assert requests(found, PATH, 499) == 1
    assert value(found, "rejections_total", reason="internal-error") == 0


async def test_gauges_tell_what_is_in_flight(client):
    """While something is computed its bytes and its place count; afterwards they are back at 0."""
    long = {"inputs": {"kind": "seeded", "query_length": 8192}, "include": ["diagnostics"]}
    engine = client._transport.app.state.shared.engine
    tasks = [asyncio.create_task(client.post(PATH, json=long)) for _ in range(3)]
    await until(lambda: engine.queue_length == 2)
    found = await measured(client)
    assert value(found, "queue_length") == 2
    assert value(found, "places_taken") == 3
    assert value(found, "in_flight_bytes") == engine.admission.bytes_in_flight > 0
    for task in tasks:
        assert (await task).status_code == 200
    found = await measured(client)
    for name in ("queue_length", "places_taken", "in_flight_bytes"):
        assert value(found, name) == 0, name
    assert value(found, "queue_wait_seconds_sum") > 0


HOSTILE = [
    "/nothing", "/v1/attention/", "/problems/a/b", "/v1/%00", "/%0a%0aattention_forged%201",
    "/" + "x" * 3000, '/"}1', "/v1/attention%22%2C", "/%F0%9F%A6%A5", "/static-offline-docs/nope",
]  # fmt: skip


async def test_what_is_sent_cannot_make_series(client):
    """Hostile paths and methods end in the series that are there: the number of series is fixed."""

    async def storm(tag):
        for path in HOSTILE:
            await client.get(f"{path}{tag}")
        for method in ("GET", "POST", "PATCH", f"M{tag}", "X" * 200, "get"):
            await client.request(method, "/nothing")
            await client.request(method, "/v1/limits")
            await client.request(method, f"/problems/{tag}")
        await client.post(PATH, json={tag: 1}, headers={"X-Request-ID": tag, "accept": tag})

    await measured(client)  # a scrape has series of its own
    await storm("first")
    series = set(await measured(client))
    for tag in ("second", "third"):
        await storm(tag)
        assert set(await measured(client)) == series
    labels = {label for _, pairs in series for label in pairs}
    methods = {v for name, v in labels if name == "method"}
    assert methods <= {"GET", "POST", "PATCH", "other"}
    routes = {v for name, v in labels if name == "route"}
    assert routes == {"/metrics", PATH, "/v1/limits", "/problems/{slug}", "unmatched",
                      "/static-offline-docs/{path}"}  # fmt: skip
    assert {v for name, v in labels if name == "reason"} == {*known_problems(), "other"}


def test_unknown_names_count_as_other():
    """Even a mistake in the code makes no new series."""
    metrics = Metrics(mechanisms=["one"], reasons=["a"])
    before = len(metrics.text().splitlines())
    for name in ("x", "y"):
        metrics.computed(name, 0.1)
        metrics.rejected(name)
    told = metrics.text().decode()
    assert len(told.splitlines()) == before
    assert 'attention_rejections_total{reason="other"} 2.0' in told
    assert 'attention_compute_seconds_count{mechanism="other"} 2.0' in told


async def test_applications_count_apart():
    """Two applications in one process share no series."""
    async with serving() as one, serving() as other:
        await one.post(PATH, json=SMALL)
        assert requests(await measured(one), PATH, 200) == 1
        assert requests(await measured(other), PATH, 200) == 0


async def test_torch_memory_is_of_gpus_in_use(monkeypatch):
    """Each GPU has its series; without one in use there is none, and no GPU is woken to ask."""
    async with serving() as client:
        assert "attention_torch_memory_bytes{" not in (await client.get("/metrics")).text
        monkeypatch.setattr(devices.torch.cuda, "is_initialized", lambda: True)
        monkeypatch.setattr(devices.torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(devices.torch.cuda, "memory_allocated", lambda _: 5)
        monkeypatch.setattr(devices.torch.cuda, "memory_reserved", lambda _: 7)
        found = await measured(client)
    assert value(found, "torch_memory_bytes", device="cuda:0", state="allocated") == 5
    assert value(found, "torch_memory_bytes", device="cuda:0", state="reserved") == 7
