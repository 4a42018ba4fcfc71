"""What every route with a body does first, and what every answer says of how it was made."""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from fastapi import Request
from starlette.requests import ClientDisconnect

from service.api.bodies import FILE_BODY, JSON_BODY, read_body
from service.api.codings import refuse_content_coding
from service.api.leaving import gone
from service.api.negotiation import asked_timeout_s, body_encoding
from service.api.request_id import request_id
from service.api.state import state_of
from service.api.stays import stay_of
from service.encodings import JSON, SAFETENSORS
from service.engine.admission import Stay
from service.engine.computer import Timed
from service.engine.engine import Series
from service.errors import Invalid

Result = TypeVar("Result")
_BOUNDS = {JSON: JSON_BODY, SAFETENSORS: FILE_BODY}


@dataclass(frozen=True, slots=True)
class Received:
    """A body as it came, its encoding, what the request holds, and what is to be done for it."""

    body: bytearray
    encoding: str
    stay: Stay
    series: Series


async def received(http: Request, *, binary: bool = True, request: str | None = None) -> Received:
    """Read the body; its memory and a place are held until the answer is sent.

    `request` is the query parameter that goes with a binary body.

    Raises:
        UnsupportedMedia, LimitExceeded, Busy, BodyTimeout, Invalid: whatever is wrong with it.
    """
    state, stay = state_of(http), stay_of(http)
    timeout_s = asked_timeout_s(http.headers)
    encoding = body_encoding(http.headers, (JSON, SAFETENSORS) if binary else (JSON,))
    if request is not None and encoding == JSON:
        raise Invalid(
            "the query parameter request goes with a safetensors body; a JSON body is the request",
            pointer="/request",
        )
    refuse_content_coding(http.headers)
    body = await read_body(http, _BOUNDS[encoding], state.settings, stay)
    stay.take_place()
    return Received(body, encoding, stay, state.engine.series(stay, timeout_s=timeout_s))


async def unless_gone(http: Request, work: Awaitable[Result]) -> Result:
    """Wait for work, but only as long as the caller does; its body has been read before.

    Raises:
        ClientDisconnect: the caller has gone; the work is cancelled.
    """
    waiting, has_left, is_over = asyncio.current_task(), False, False
    if waiting is None:
        raise RuntimeError

    def leave(told: asyncio.Future[None]) -> None:
        nonlocal has_left
        if not is_over and not told.cancelled():
            has_left = True
            waiting.cancel()

    left = asyncio.ensure_future(gone(http.receive))
    left.add_done_callback(leave)
    try:
        return await work
    except (Exception, asyncio.CancelledError):
        # Somebody else may have cancelled this too; what else fails then is nobody's to hear.
        if not has_left or waiting.uncancel() > 0:
            raise
        raise ClientDisconnect from None
    finally:
        is_over = True
        left.cancel()


def common(
    http: Request, device: torch.device, timed: Timed[Any], *, batch: bool = True
) -> dict[str, Any]:
    """Where and how an answer was computed."""
    return {
        "device": str(device),
        "torch": torch.__version__.partition("+")[0],
        "timing_ms": {"queue": round(timed.queue_ms, 3), "compute": round(timed.compute_ms, 3)},
        **({"batch_size": timed.batch_size} if batch else {}),
        "request_id": request_id(http.scope),
    }
