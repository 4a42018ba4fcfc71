"""Applications with settings of their own, in this process."""

from contextlib import asynccontextmanager

import httpx

from service.app import create_app
from service.settings import Settings


@asynccontextmanager
async def serving(**settings):
    """A client of an application with these settings, its lifespan entered."""
    app = create_app(Settings(**settings))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://service") as client,
    ):
        client.app = app
        yield client


def scope_of(path="/v1/attention", method="POST", headers=()):
    """A request as a server hands it to an application."""
    return {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode("utf-8", "replace"),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"service"), *headers],
        "client": ("192.0.2.7", 1234),
        "server": ("service", 80),
    }


async def send_to(app, scope, receive):
    """What an application answers to a raw request: its messages."""
    sent = []

    async def send(message):
        sent.append(message)

    await app(scope, receive, send)
    return sent
