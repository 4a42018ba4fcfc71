"""Noticing a computation that never ends."""

import asyncio
import threading

import httpx
import pytest

from service.api import computing
from service.app import create_app
from service.settings import Settings
from tests.waiting import until

pytestmark = pytest.mark.anyio
SETTINGS = Settings(deadline_s=0.3, hang_after_s=0.3)


def stuck(gate, seconds):
    """A computation without a checkpoint."""

    def computed(jobs, _):
        gate.wait(seconds)
        return [None] * len(jobs)

    return computed


async def asked(app, told):
    """The answer to an analysis, and what the hook has been told soon after."""
    app.state.shared.engine.on_hang = told.append
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        return (await client.post("/v1/attention", json={"include": []})).status_code


async def test_a_computation_past_its_deadline_that_goes_on_is_told(monkeypatch):
    """Its caller gets 504 in time; when it has not ended for the time of the setting, the hook is
    called, once, with the reason.
    """  # noqa: D205 - one sentence
    app, told, gate = create_app(SETTINGS), [], threading.Event()
    monkeypatch.setattr(computing, "run_together", stuck(gate, 30))
    async with app.router.lifespan_context(app):
        assert await asked(app, told) == 504
        assert told == []
        await until(lambda: told)
        await asyncio.sleep(0.5)
        gate.set()
    assert told == ["a computation that nobody waits for has not ended within 0.3 s"]


async def test_one_that_ends_late_is_none(monkeypatch):
    """A computation that ends a moment after its deadline is no hang."""
    app, told, gate = create_app(SETTINGS), [], threading.Event()
    monkeypatch.setattr(computing, "run_together", stuck(gate, 0.45))
    async with app.router.lifespan_context(app):
        assert await asked(app, told) == 504
        await asyncio.sleep(0.8)
    assert told == []
