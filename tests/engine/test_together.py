"""Requests that arrive together, over HTTP."""

import asyncio
import json
import threading

import pytest
import torch

from service import job as jobs
from service.api import attention, computing
from service.engine.waiting import Waiting
from service.settings import Settings
from service.wire.pieces import Content
from tests.waiting import until

pytestmark = pytest.mark.anyio

PATH = "/v1/attention"
VARYING = ("request_id", "timing_ms", "batch_size")


def seeded(seed, **extents):
    return {"inputs": {"kind": "seeded", "seed": seed, **extents}}


def engine_of(client):
    return client._transport.app.state.shared.engine


class Gate:
    """Holds the compute thread at its next computations until it is opened."""

    def __init__(self, monkeypatch, run=computing.run_together):
        self.sizes, self._run, self._open = [], run, threading.Event()
        monkeypatch.setattr(computing, "run_together", self)

    def __call__(self, together, runtime):
        self.sizes.append(len(together))
        assert self._open.wait(30)
        return self._run(together, runtime)

    def open(self):
        self._open.set()


@pytest.fixture
def gate(monkeypatch):
    gate = Gate(monkeypatch)
    yield gate
    gate.open()


async def queued(client, gate, documents):
    """Requests that wait behind one that holds the device."""
    engine = engine_of(client)
    first = asyncio.create_task(client.post(PATH, json={"include": []}))
    await until(lambda: gate.sizes == [1])
    tasks = []
    for count, document in enumerate(documents, 2):
        tasks.append(asyncio.create_task(client.post(PATH, json=document)))
        await until(lambda count=count: engine.admission.waiting == count)
    computer = next(iter(engine._computers.values()))
    await until(lambda: len(computer.waiting) == len(documents))
    return first, tasks


async def test_what_is_read_in_one_turn_of_the_event_loop_waits_together(client, monkeypatch):
    """No request is handed to the device before those beside it have been read."""
    seen, prepare, put = [], attention.prepare, Waiting.put
    monkeypatch.setattr(
        attention, "prepare", lambda *a, **k: seen.append("read") or prepare(*a, **k)
    )
    monkeypatch.setattr(Waiting, "put", lambda *a: seen.append("put") or put(*a))
    documents = [seeded(seed) for seed in range(3)]
    await asyncio.gather(*(client.post(PATH, json=document) for document in documents))
    assert seen == ["read"] * 3 + ["put"] * 3


async def test_what_waits_with_an_equal_plan_is_computed_once(client, gate):
    """Equal plans share a computation, others do not, and every answer is the one it gets alone."""
    documents = [seeded(1), seeded(2, d_k=32), seeded(3), seeded(4), seeded(5, d_k=32)]
    first, tasks = await queued(client, gate, documents)
    gate.open()
    answers = [answer.json() for answer in await asyncio.gather(*tasks)]
    assert (await first).status_code == 200
    assert gate.sizes == [1, 3, 2]
    assert [answer["batch_size"] for answer in answers] == [3, 2, 3, 3, 2]
    for document, answer in zip(documents, answers, strict=True):
        alone = (await client.post(PATH, json=document)).json()
        assert alone["batch_size"] == 1
        for member in VARYING:
            del alone[member], answer[member]
        assert json.dumps(answer) == json.dumps(alone)


async def test_one_bad_request_is_told_so_and_harms_nobody(client, gate):
    """A request that only its tensors show to be wrong is 422 amid answers."""
    good, bad = ({"inputs": {"kind": "weights", "weights": [[w, 1 - w]]}} for w in (0.5, -1.0))
    infinite = {"shape": [1, 2], "dtype": "float32", "data": "AACAfwAAgD8="}
    tensors = [{"inputs": {"kind": "tensors", "query": q}} for q in ([[1, 2]], infinite, [[3, 4]])]
    first, tasks = await queued(client, gate, [good, bad, *tensors])
    gate.open()
    statuses = [answer.status_code for answer in await asyncio.gather(first, *tasks)]
    assert statuses == [200, 200, 422, 200, 422, 200]
    assert gate.sizes == [1, 1, 1, 3]


async def test_a_batch_that_breaks_is_computed_one_by_one(client, monkeypatch, caplog):
    """A fault in computing many together costs none of them its answer."""

    def broken_together(together, runtime):
        if len(together) > 1:
            message = "together"
            raise RuntimeError(message)
        return jobs.run_together(together, runtime)

    gate = Gate(monkeypatch, broken_together)
    first, tasks = await queued(client, gate, [seeded(seed) for seed in range(3)])
    gate.open()
    answers = await asyncio.gather(first, *tasks)
    assert [answer.status_code for answer in answers] == [200] * 4
    assert [answer.json()["batch_size"] for answer in answers] == [1] * 4
    assert gate.sizes == [1, 3, 1, 1, 1]
    assert "each is computed alone" in caplog.text


@pytest.mark.parametrize("settings", [Settings(largest_batch=2)], ids=["largest_batch=2"])
async def test_batches_are_bounded(client, gate):
    """No more are computed together than the setting allows."""
    first, tasks = await queued(client, gate, [seeded(seed) for seed in range(5)])
    gate.open()
    await asyncio.gather(first, *tasks)
    assert gate.sizes == [1, 2, 2, 1]


async def test_who_leaves_the_queue_is_not_computed(client, gate):
    """A caller that goes away while it waits gives up its place, and its work is never begun."""
    first, tasks = await queued(client, gate, [seeded(seed) for seed in range(3)])
    tasks[1].cancel()
    engine = engine_of(client)
    await until(lambda: engine.admission.waiting == 3)
    gate.open()
    answers = await asyncio.gather(first, tasks[0], tasks[2])
    assert [answer.status_code for answer in answers] == [200] * 3
    assert gate.sizes == [1, 2]
    assert (engine.admission.waiting, engine.admission.bytes_in_flight) == (0, 0)


@pytest.mark.parametrize("value", ["200", "0200"])
async def test_a_caller_may_name_its_own_deadline(client, gate, value):
    """X-Request-Timeout-Ms ends the wait, and what it held is held until its work has ended."""
    headers = {"X-Request-Timeout-Ms": value}
    answer = await client.post(PATH, json={}, headers=headers)
    assert answer.status_code == 504
    assert "0.2 s" in answer.json()["detail"]
    admission = engine_of(client).admission
    assert admission.waiting == 1
    assert admission.bytes_in_flight > 0
    gate.open()
    await until(lambda: admission.waiting == admission.bytes_in_flight == 0)
    assert (await client.post(PATH, json={}, headers={"X-Request-Timeout-Ms": "60000"})).is_success


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "", "abc", "1" * 10, "１"])
async def test_a_deadline_that_is_no_number_of_milliseconds_is_422(client, value):
    """What cannot be meant is refused, and not repeated."""
    headers = [("X-Request-Timeout-Ms", value.encode())]
    answer = await client.post(PATH, json={}, headers=headers)
    assert answer.status_code == 422
    assert "X-Request-Timeout-Ms" in answer.json()["detail"]


MEMORY = [
    MemoryError(),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to …"),
]


@pytest.mark.parametrize("error", MEMORY, ids=["python", "torch"])
async def test_a_device_without_memory_is_503_and_lives_on(client, monkeypatch, error):
    """Too little memory is told as such, to be tried again; the next request is answered."""

    def exhausted(*_):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(computing, "run_together", exhausted)
        answer = await client.post(PATH, json={})
    assert answer.status_code == 503
    assert answer.json()["type"] == "/problems/out-of-memory"
    assert int(answer.headers["retry-after"]) >= 1
    assert (await client.post(PATH, json={})).status_code == 200


async def test_really_too_little_memory_is_503(client, monkeypatch):
    """An allocation that the machine refuses is the same, whatever the library calls it."""
    monkeypatch.setattr(computing, "run_together", lambda *_: torch.empty(2**45))
    answer = await client.post(PATH, json={})
    assert answer.json()["type"] == "/problems/out-of-memory"


async def test_a_full_house_is_refused_before_the_body_is_read(client, gate, settings):
    """Where all places are taken, nothing of a further body is read."""
    admission = engine_of(client).admission
    for _ in range(settings.max_queue):
        admission.stay().take_place()

    async def never():
        pytest.fail("the body was read")
        yield b""

    answer = await client.post(PATH, content=never(), headers={"content-length": "9"})
    assert answer.status_code == 429


async def test_whatever_a_computation_gives_the_thread_lives_on(client, monkeypatch):
    """Results that are not as many as the requests are a fault told to one caller, and no more."""
    with monkeypatch.context() as patched:
        patched.setattr(computing, "run_together", lambda *_: [])
        assert (await client.post(PATH, json={})).status_code == 500
    assert (await client.post(PATH, json={})).status_code == 200


async def test_the_deadline_covers_parsing_and_writing(client, monkeypatch):
    """A caller gets its 504 in time wherever the time is spent; what is held is held on."""
    release = threading.Event()

    def slow(*_, **__):
        assert release.wait(30)
        return Content([b"{}"])

    admission = engine_of(client).admission
    for step in ("prepare", "write"):
        release.clear()
        with monkeypatch.context() as patched:
            patched.setattr(attention, step, slow)
            for small in ("small_body", "small_answer"):
                patched.setattr(attention, small, lambda *_: False)
            headers = {"X-Request-Timeout-Ms": "300"}
            answer = await client.post(PATH, json={"include": []}, headers=headers)
        assert answer.status_code == 504, step
        assert admission.waiting == 1
        release.set()
        await until(lambda: admission.waiting == admission.bytes_in_flight == 0)


async def test_the_index_of_models_takes_a_place_too(client, settings):
    """Nothing that is parsed passes by the bound on places."""
    admission = engine_of(client).admission
    for _ in range(settings.max_queue):
        admission.stay().take_place()
    answer = await client.post("/v2/repository/index", json={"ready": True})
    assert answer.status_code == 429
    assert answer.json()["error"]
