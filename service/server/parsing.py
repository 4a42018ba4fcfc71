"""What the parser is given, and what it finds: counted, and read in one way only."""

import logging
from asyncio import AbstractEventLoop
from collections.abc import Iterator
from enum import Enum, auto
from time import perf_counter
from typing import Any

from httptools import (
    HttpParserCallbackError,
    HttpParserError,
    HttpParserUpgrade,
    HttpRequestParser,
)
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.errors import NotHttp, ServiceError
from service.server import heads
from service.server.config import Config, Shared
from service.server.counts import Counts

PIECE = 16 * 1024
"""Bytes given to the parser at once: so much of a head may be read before it is found too long.

Of a body whose length is known all that has come: uvicorn copies what it has for each piece.
"""
_log = logging.getLogger("uvicorn.error")


class Phase(Enum):
    """What comes next on a connection."""

    HEAD = auto()
    BODY = auto()
    BETWEEN = auto()


class Parsing(HttpToolsProtocol):
    """uvicorn's protocol, as far as it reads."""

    def __init__(
        self,
        config: Config,
        server_state: Shared,
        app_state: dict[str, Any],
        _loop: AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.settings, self.shared = config.settings, server_state
        self.phase, self.messages = Phase.HEAD, 0
        self.counts = Counts(self.settings)
        self.url, self.began = b"", perf_counter()
        self._declared = 0

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """What has come, cut as the parser is given it."""
        start = 0
        while start < len(data):
            stop = start + max(PIECE, self._left)
            yield data[start:stop]
            start = stop

    @property
    def _left(self) -> int:
        """Bytes of the body that is being read, where its length is known."""
        return self._declared - self.counts.body_bytes if self.phase is Phase.BODY else 0

    def parse(self, piece: bytes) -> None:
        """Read a piece.

        Raises:
            HttpParserError, ServiceError: `told` makes a refusal of it.
        """
        while (offered := self._feed(piece)) is not None:
            self._read_without_upgrade()
            piece = piece[offered:]

    def _feed(self, piece: bytes) -> int | None:
        """Give it to the parser; where a head offers an upgrade, tell what was read of the piece.

        What follows is read outside of `except`: within it every fault of the parser would have
        the offer for its context, and not what a callback raised.
        """
        place, body = (self.messages, self.phase), self.counts.body_bytes
        try:
            self.parser.feed_data(piece)
        except HttpParserUpgrade as upgrade:
            offset: int = upgrade.args[0]
            return offset
        # A piece in which a head begins or ends counts by its fields alone.
        if place == (self.messages, self.phase):
            self.counts.frames(len(piece) - (self.counts.body_bytes - body))
        return None

    def _read_without_upgrade(self) -> None:
        """Read the head again as if nothing had been offered, which HTTP allows.

        The parser takes what follows for the other protocol, the body too; clients that know
        HTTP/2 offer it with every request.
        """
        method, version = self.parser.get_method(), self.parser.get_http_version()
        lines = [b"%s %s HTTP/%s" % (method, self.url, version.encode())]
        lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.parser.feed_data(b"\r\n".join([*lines, b"", b""]))

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        # Empty lines between requests do not keep a connection alive.
        self._unset_keepalive_if_required()
        self.phase, self.counts = Phase.HEAD, Counts(self.settings)
        self.messages += 1
        self.began = perf_counter()

    def on_url(self, url: bytes) -> None:
        """Count a part of the target."""
        super().on_url(url)
        self.counts.target(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header or a trailer; a trailer never becomes a header."""
        self.counts.header(name, value)
        if self.phase is Phase.HEAD:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Hand a fit head on."""
        method = self.parser.get_method()
        if self.parser.should_upgrade() and method != b"CONNECT":
            return
        heads.check(self.parser.get_http_version(), method, self.headers)
        self.url = heads.origin_form(self.url)
        self._declared = next((int(v) for name, v in self.headers if name == b"content-length"), 0)
        self.begin_answer()
        self.phase = Phase.BODY

    def begin_answer(self) -> None:
        """Start the application, or refuse."""
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Hand it on; where the answer is out, throw it away, up to a bound."""
        self.counts.body(body, wanted=not self.cycle.response_complete)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request ends."""
        if self.parser.should_upgrade():
            return
        super().on_message_complete()
        self.phase, self.began = Phase.BETWEEN, perf_counter()

    def read_so_far(self) -> Scope:
        """What is known of a request whose head is not read, or refused."""
        has_begun = self.phase is Phase.HEAD and self.messages > 0
        url = self.url if has_begun else b""
        path = url.partition(b"?")[0].partition(b"#")[0]
        scope: Scope = {
            "type": "http",
            # A target of another form can hold a password.
            "path": path.decode("latin-1") if path.startswith(b"/") else "",
            "query_string": b"",
            "headers": self.headers if has_begun else [],
            "client": self.client,
            "state": {},
        }
        if url:  # until it has come, the parser tells a method that nobody sent
            scope["method"] = self.parser.get_method().decode()
        return scope


def told(fault: HttpParserError | ServiceError) -> ServiceError:
    """What was raised while parsing, as a refusal."""
    cause = fault.__context__ if isinstance(fault, HttpParserCallbackError) else fault
    if isinstance(cause, ServiceError):
        return cause
    if cause is fault:
        return NotHttp(f"expected a request as RFC 9112 describes it, found: {fault}")
    if not isinstance(cause, HttpParserError):
        _log.error("unexpected error in the protocol", exc_info=cause)
    return NotHttp("expected a path and a query as the target of the request")
