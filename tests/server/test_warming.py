"""Ready is who has answered a request of its own."""

import asyncio
from contextlib import asynccontextmanager

import httpx
import pytest
from starlette.responses import Response

from service.app import create_app
from service.settings import Settings
from tests.server_process import running

pytestmark = pytest.mark.anyio


class Gate:
    """Holds analyses until it is opened; then lets them through, or answers with a status."""

    def __init__(self, app, opened, status=None):
        self.app, self.opened, self.status = app, opened, status

    async def __call__(self, scope, receive, send):
        if scope.get("method") == "POST":
            await self.opened.wait()
            if self.status is not None:
                await Response(status_code=self.status)(scope, receive, send)
                return
        await self.app(scope, receive, send)


@asynccontextmanager
async def warming(*, status=None, **settings):
    """A service that warms up, the event that lets it, and a client."""
    app, opened = create_app(Settings(**settings), warm_up=True), asyncio.Event()
    app.add_middleware(Gate, opened=opened, status=status)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://service") as client,
    ):
        yield app.state.shared.engine, opened, client


async def ready(client, *, within=200):
    for _ in range(within):
        if (await client.get("/health/ready")).status_code == 200:
            return True
        await asyncio.sleep(0.02)
    return False


async def test_readiness_waits_for_the_warm_up():
    """Alive at once, ready only after a first analysis has run through every floor."""
    async with warming() as (engine, opened, client):
        computed = []
        code = engine.code
        engine.code = lambda *asked, **so: computed.append(1) or code(*asked, **so)
        answer = await client.get("/health/ready")
        assert answer.status_code == 503
        assert answer.json()["detail"] == "the service is warming up"
        assert int(answer.headers["retry-after"]) >= 1
        assert (await client.get("/health/live")).status_code == 200
        assert (await client.get("/v1/limits")).status_code == 200
        assert not computed
        opened.set()
        assert await ready(client)
        assert len(computed) >= 2  # read and written


async def test_work_is_served_while_it_warms_up():
    """Who does not ask whether it is ready is served nevertheless."""
    async with warming() as (engine, opened, client):
        opened.set()
        assert (await client.post("/v1/attention", json={"include": []})).status_code == 200
        assert await ready(client)
        assert engine.warm


async def test_settings_that_refuse_the_warm_up_do_not_refuse_readiness():
    """A service whose limits are below the smallest request is ready to say so."""
    async with warming(max_elements=1) as (_, opened, client):
        opened.set()
        assert await ready(client)
        assert (await client.post("/v1/attention", json={})).status_code == 413


async def test_a_warm_up_that_fails_asks_for_a_new_process():
    """A service that cannot answer the smallest request is never ready, and says why it ends."""
    async with warming(status=500) as (engine, opened, client):
        told = []
        engine.on_hang = told.append
        opened.set()
        assert not await ready(client, within=10)
        assert told == ["the request that warms the service up was answered with 500"]


async def test_an_end_during_the_warm_up_is_an_end():
    """Who stops a service that is still warming up does not wait for it."""
    async with asyncio.timeout(5):
        async with warming() as (engine, _, client):
            assert (await client.get("/health/ready")).status_code == 503
        assert not engine.warm


@pytest.mark.sockets
def test_the_first_caller_does_not_pay(tmp_path):
    """The log of a server says that it is ready after a request of its own was answered."""
    with running(tmp_path / "log") as server:
        assert "Ready: a request of the service's own was answered with 200" in (
            server.log.read_text()
        )
