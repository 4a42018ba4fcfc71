"""Answers on their way out: in pieces, so that a slow reader is not ahead of by more than one."""

import asyncio
from collections.abc import Iterator, Mapping

from fastapi import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.api.leaving import gone
from service.api.stays import stay_of
from service.wire.pieces import Content, Piece

# The server waits for the reader between two messages: what is beyond lies in its buffer.
_MESSAGE_BYTES = 2**18


class _Pieces(Response):
    def __init__(
        self, content: Content, media_type: str, headers: Mapping[str, str] | None = None
    ) -> None:
        self._content = content
        named = {"Content-Length": str(len(content)), **(headers or {})}
        super().__init__(None, media_type=media_type, headers=named)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - a response's form
        """Send all pieces, for as long as there is somebody to read them."""
        if len(self._content) <= _MESSAGE_BYTES:
            await self._send_whole(send)
            return
        sending = asyncio.ensure_future(self._send(send))
        left = asyncio.ensure_future(gone(receive))
        try:
            await asyncio.wait({sending, left}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            sending.cancel()
            left.cancel()

    async def _send_whole(self, send: Send) -> None:
        await self._begin(send)
        whole = b"".join(self._content.pieces)
        await send({"type": "http.response.body", "body": whole, "more_body": False})

    async def _begin(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})

    async def _send(self, send: Send) -> None:
        await self._begin(send)
        for message in _messages(self._content):
            await send({"type": "http.response.body", "body": message, "more_body": True})
            # Where nobody is left, sending waits for nothing: whoever tells of it gets a turn.
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def answered(
    http: Request,
    content: Content,
    media_type: str,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The answer that is made: from here on only its own bytes are held, and no place."""
    stay = stay_of(http)
    stay.leave_place()
    stay.keep(len(content))
    return _Pieces(content, media_type, headers)


def _messages(content: Content) -> Iterator[Piece]:
    """The same bytes in messages of bounded size; small neighbours travel together."""
    small: list[Piece] = []
    size = 0
    for piece in content.pieces:
        if size + len(piece) > _MESSAGE_BYTES and small:
            yield b"".join(small)
            small, size = [], 0
        if len(piece) > _MESSAGE_BYTES:
            view = memoryview(piece)
            yield from (view[i : i + _MESSAGE_BYTES] for i in range(0, len(view), _MESSAGE_BYTES))
        else:
            small.append(piece)
            size += len(piece)
    if small:
        yield b"".join(small)
