"""Reading a body: bounded in bytes and time, into one buffer."""

import asyncio
from dataclasses import dataclass

from starlette.requests import Request

from service.engine.admission import Stay
from service.errors import BodyTimeout, Malformed
from service.limits import within
from service.settings import Settings
from service.wire.documents import ADVICE

_STEP_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Bound:
    """The setting that bounds a body, and what to do about a longer one."""

    field: str
    advice: str

    def check(self, size: int, settings: Settings) -> None:
        """Compare a number of bytes with it.

        Raises:
            LimitExceeded: it is more.
        """
        within(settings, self.field, size, "the body, in bytes", self.advice)


JSON_BODY = Bound("max_json_bytes", ADVICE)
FILE_BODY = Bound("max_body_bytes", "Split the file, or raise the setting.")


def byte_count(request: Request, header: str) -> int | None:
    """A header that counts bytes; None where it is absent.

    Raises:
        Malformed: it is not a number.
    """
    text = request.headers.get(header)
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise Malformed(f"{header} is not a number of bytes")
    return int(text)


async def read_body(request: Request, bound: Bound, settings: Settings, stay: Stay) -> bytearray:
    """Read the whole body; what has come of it is held.

    Raises:
        LimitExceeded: more bytes than it may have; refused unread where it declares them.
        Busy: no place for it; refused unread where what it declares does not fit.
        BodyTimeout: it did not arrive in time.
    """
    declared = byte_count(request, "Content-Length") or 0
    bound.check(declared, settings)
    stay.refuse_unless_place()
    stay.refuse_unless_fits(declared)
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            body = await _receive(request, bound, settings, stay)
    except TimeoutError:
        raise BodyTimeout(
            f"the body did not arrive within {settings.body_timeout_s:g} s "
            f"(setting {settings.name_of('body_timeout_s')})"
        ) from None
    stay.keep(len(body))
    return body


async def _receive(request: Request, bound: Bound, settings: Settings, stay: Stay) -> bytearray:
    # It grows with what comes: a buffer of the declared length is written once to be zero, 128 MiB
    # on the event loop for a request that sends nothing else.
    body = bytearray()
    async for chunk in request.stream():
        end = len(body) + len(chunk)
        bound.check(end, settings)
        if end > stay.bytes_held:
            stay.hold(max(_STEP_BYTES, end - stay.bytes_held))
        body += chunk
    return body
