"""An endpoint that is called straight away is given what the framework would have given it."""

import json
from types import SimpleNamespace
from typing import Annotated

import fastapi.routing
import pytest
from fastapi import APIRouter, FastAPI, Query, Request, Response
from httpx import ASGITransport, AsyncClient

from service.api import straight
from service.api.straight import Straight

pytestmark = pytest.mark.anyio
PLAIN = ["", "?text=a", "?text=", "?text", "?text=a%20b%26c", "?text=%C3%A9+1&other=x"]
RESOLVED = [
    "?text=a&text=b", "?number=3", "?number=-1", "?checked=ab", "?checked=abc", "?named=x",
    "?name=x", "?unknown=1", "?text=a&number=2",
]  # fmt: skip


@pytest.fixture
def resolved(monkeypatch):
    """What the framework has resolved."""
    seen, solve = [], fastapi.routing.solve_dependencies

    async def counted(*args, **kwargs):
        seen.append(kwargs["request"].url.query)
        return await solve(*args, **kwargs)

    monkeypatch.setattr(fastapi.routing, "solve_dependencies", counted)
    return seen


@pytest.fixture
def app(monkeypatch):
    """The same endpoint on a route of either kind."""
    settings = SimpleNamespace(telemetry=False)
    monkeypatch.setattr(straight, "state_of", lambda _: SimpleNamespace(settings=settings))

    async def endpoint(
        request: Request,
        text: Annotated[str | None, Query(description="Any.")] = None,
        other: str | None = None,
        checked: Annotated[str | None, Query(max_length=2)] = None,
        named: Annotated[str | None, Query(alias="name")] = None,
        number: Annotated[int | None, Query(ge=0)] = None,
    ) -> Response:
        return Response(json.dumps([text, other, checked, named, number]))

    app = FastAPI()
    for path, kind in (("/plain", fastapi.routing.APIRoute), ("/straight", Straight)):
        router = APIRouter(route_class=kind)
        router.get(path, response_model=None)(endpoint)
        app.include_router(router)
    app.state.settings = settings
    return app


@pytest.mark.parametrize("query", [*PLAIN, *RESOLVED])
async def test_the_endpoint_gets_what_the_framework_gives_it(query, app, resolved):
    """Text as it is, and everything else resolved and refused as ever."""
    async with AsyncClient(transport=ASGITransport(app), base_url="http://x") as client:
        usual = await client.get(f"/plain{query}")
        assert len(resolved) == 1
        found = await client.get(f"/straight{query}")
    assert (found.status_code, found.content) == (usual.status_code, usual.content)
    assert len(resolved) == 1 + (query in RESOLVED)


async def test_with_telemetry_the_framework_resolves(app, resolved):
    """It makes a span of each step."""
    app.state.settings.telemetry = True
    async with AsyncClient(transport=ASGITransport(app), base_url="http://x") as client:
        await client.get("/straight")
    assert len(resolved) == 1
