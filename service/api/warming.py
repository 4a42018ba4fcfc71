"""A first request of the service's own, so that no caller waits for what is made on first use."""

import asyncio
import logging
from contextlib import suppress

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Scope

from service.encodings import JSON
from service.engine.engine import Engine
from service.settings import Settings

_PATH, _BODY = "/v1/attention", b"{}"
DEADLINE = 504
_log = logging.getLogger("uvicorn.error")


async def warmed(app: FastAPI, engine: Engine, settings: Settings) -> None:
    """Send the smallest request through every floor, and say that the engine is warm.

    Settings may refuse it, say by a memory that is too small for it; the service is ready then too.
    """
    status = await _status(app, _scope(settings))
    if status >= 500 and status != DEADLINE:
        engine.on_hang(f"the request that warms the service up was answered with {status}")
        return
    engine.warm = True
    _log.info("Ready: a request of the service's own was answered with %d", status)


async def _status(app: ASGIApp, scope: Scope) -> int:
    found = [500]
    parts: list[Message] = [{"type": "http.request", "body": _BODY, "more_body": False}]

    async def receive() -> Message:
        if not parts:
            await asyncio.Event().wait()  # this caller does not go away
        return parts.pop()

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            found.append(message["status"])

    with suppress(Exception):  # it was logged where it was answered
        await app(scope, receive, send)
    return found[-1]


def _scope(settings: Settings) -> Scope:
    headers = [
        (b"content-type", JSON.encode()),
        (b"content-length", b"%d" % len(_BODY)),
        (b"x-request-id", b"warm-up"),
        *((b"authorization", b"Bearer " + key) for key in settings.accepted_keys[:1]),
    ]
    return {
        "type": "http",
        "method": "POST",
        "path": _PATH,
        "raw_path": _PATH.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "http_version": "1.1",
        "scheme": "http",
        "state": {},
    }
