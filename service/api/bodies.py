"""Reading a body: bounded in bytes and time, into one buffer."""

import asyncio
from dataclasses import dataclass

from starlette.requests import Request

from service.errors import BodyTimeout, Malformed
from service.limits import within
from service.settings import Settings
from service.wire.documents import ADVICE


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


def _declared(request: Request) -> int:
    return byte_count(request, "Content-Length") or 0


def reserved_bytes(request: Request, bound: Bound, settings: Settings) -> int:
    """What to hold for the body: as much as is declared, or as it may have where it is chunked.

    Raises:
        LimitExceeded: it declares more bytes than it may have.
    """
    declared = _declared(request)
    bound.check(declared, settings)
    chunked = "transfer-encoding" in request.headers
    return int(getattr(settings, bound.field)) if chunked else declared


async def read_body(request: Request, bound: Bound, settings: Settings) -> bytearray:
    """Read the whole body.

    Raises:
        LimitExceeded: more bytes than it may have.
        BodyTimeout: it did not arrive in time.
    """
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            return await _receive(request, _declared(request), bound, settings)
    except TimeoutError:
        raise BodyTimeout(
            f"the body did not arrive within {settings.body_timeout_s:g} s "
            f"(setting {settings.name_of('body_timeout_s')})"
        ) from None


async def _receive(request: Request, declared: int, bound: Bound, settings: Settings) -> bytearray:
    body, filled = bytearray(declared), 0
    async for chunk in request.stream():
        end = filled + len(chunk)
        if end > len(body):
            bound.check(end, settings)
            del body[filled:]
            body += chunk
        else:
            body[filled:end] = chunk
        filled = end
    del body[filled:]
    return body
