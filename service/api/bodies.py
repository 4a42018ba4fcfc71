"""Reading a body: bounded in bytes and time, into one buffer."""

import asyncio

from starlette.requests import Request

from service.encodings import JSON, SAFETENSORS
from service.errors import BodyTimeout, Malformed, UnsupportedMedia
from service.limits import within
from service.settings import Settings
from service.wire.documents import ADVICE

_FIELDS = {JSON: "max_json_bytes", SAFETENSORS: "max_body_bytes"}
_ADVICE = {
    "max_json_bytes": ADVICE,
    "max_body_bytes": "Split the file, or raise the setting.",
}


def declared_bytes(request: Request) -> int:
    """Content-Length, 0 where it is absent.

    Raises:
        Malformed: it is not a number.
        UnsupportedMedia: the body is compressed.
    """
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise UnsupportedMedia("expected no Content-Encoding: bodies are read uncompressed")
    text = request.headers.get("content-length", "0")
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise Malformed("Content-Length is not a number of bytes")
    return int(text)


def reserved_bytes(request: Request, encoding: str, settings: Settings) -> int:
    """What to hold for the body: as much as is declared, or as it may have where it is chunked.

    Raises:
        LimitExceeded: it declares more bytes than this encoding may have.
    """
    field, declared = _FIELDS[encoding], declared_bytes(request)
    within(settings, field, declared, "the body, in bytes", _ADVICE[field])
    chunked = "transfer-encoding" in request.headers
    return int(getattr(settings, field)) if chunked else declared


async def read_body(request: Request, encoding: str, settings: Settings) -> bytearray:
    """Read the whole body.

    Raises:
        LimitExceeded: more bytes than this encoding may have.
        BodyTimeout: it did not arrive in time.
    """
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            return await _receive(request, declared_bytes(request), _FIELDS[encoding], settings)
    except TimeoutError:
        raise BodyTimeout(
            f"the body did not arrive within {settings.body_timeout_s:g} s "
            f"(setting {settings.name_of('body_timeout_s')})"
        ) from None


async def _receive(request: Request, declared: int, field: str, settings: Settings) -> bytearray:
    body, filled = bytearray(declared), 0
    async for chunk in request.stream():
        end = filled + len(chunk)
        if end > len(body):
            within(settings, field, end, "the body, in bytes", _ADVICE[field])
            del body[filled:]
            body += chunk
        else:
            body[filled:end] = chunk
        filled = end
    del body[filled:]
    return body
