"""What every route with a body does first, and what every answer says of how it was made."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from fastapi import Request
from starlette.requests import ClientDisconnect

from service.api.bodies import read_body, reserved_bytes
from service.api.negotiation import body_encoding
from service.api.request_id import request_id
from service.api.state import State, state_of
from service.encodings import JSON, SAFETENSORS
from service.engine.engine import Timed
from service.errors import Invalid

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Received:
    """A body as it came: its encoding, and how many bytes are held for it."""

    body: bytearray
    encoding: str
    reserved: int


@asynccontextmanager
async def received(
    http: Request, *, binary: bool = True, request: str | None = None
) -> AsyncIterator[Received]:
    """Read the body; the memory it takes is held for as long as the block runs.

    `request` is the query parameter that goes with a binary body.

    Raises:
        UnsupportedMedia, LimitExceeded, Busy, BodyTimeout, Invalid: whatever is wrong with it.
    """
    state: State = state_of(http)
    encoding = body_encoding(http.headers, (JSON, SAFETENSORS) if binary else (JSON,))
    if request is not None and encoding == JSON:
        raise Invalid(
            "the query parameter request goes with a safetensors body; a JSON body is the request",
            pointer="/request",
        )
    reserved = reserved_bytes(http, encoding, state.settings)
    with state.engine.admission.hold(reserved):
        body = await read_body(http, encoding, state.settings)
        yield Received(body, encoding, reserved)


async def unless_gone(http: Request, work: Awaitable[Result]) -> Result:
    """Wait for work, but only as long as the caller does; its body has been read before.

    Raises:
        ClientDisconnect: the caller has gone; the work is cancelled.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(http))
    # What fails after the caller has gone is nobody's to hear.
    task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


async def _gone(http: Request) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


def common(
    http: Request, device: torch.device, timed: Timed[Any], *, batch: bool = True
) -> dict[str, Any]:
    """Where and how an answer was computed."""
    return {
        "device": str(device),
        "torch": torch.__version__.partition("+")[0],
        "timing_ms": {"queue": round(timed.queue_ms, 3), "compute": round(timed.compute_ms, 3)},
        **({"batch_size": 1} if batch else {}),
        "request_id": request_id(http.scope),
    }
