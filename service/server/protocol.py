"""uvicorn's protocol with bounds: on what a peer sends, how long it takes, and what it leaves."""

from asyncio import AbstractEventLoop, TimerHandle, Transport
from collections.abc import Callable
from typing import Any

from httptools import HttpParserError
from starlette.types import ASGIApp, Scope
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from service.api.observing import note_refusal
from service.api.paths import HEALTH
from service.errors import BodyTimeout, HeadTimeout, NotHttp, ServiceError, TooManyConnections
from service.server.config import Config, Shared
from service.server.parsing import Parsing, Phase, told
from service.server.reading import Reading
from service.server.refusals import refusal, tell

_HEALTH = tuple(path.encode() for path in HEALTH)
MOST_PIPELINED = 16
AFTER_THE_APPLICATION_S = 1.0
"""The application's own deadline for a body comes first: it knows what to say of it."""
YOUNG_S, MOST_SPARED = 0.25, 128
"""How long a connection may take to ask before it makes room, and beyond the bound how many may."""
LINGER_S, LINGER_BYTES = 2.0, 2**20
"""What is still read, and thrown away, of a peer that was refused, so that it sees the answer."""


class Protocol(Parsing):
    """One connection."""

    reading: Reading

    def __init__(
        self,
        config: Config,
        server_state: Shared,
        app_state: dict[str, Any],
        _loop: AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._metrics = config.metrics
        self._awaited: tuple[Phase, int] | None = None
        self._deadline: TimerHandle | None = None
        self._active: RequestResponseCycle | None = None
        self._deaf = self._crowded = False
        self._discarded = 0

    # --- the connection --------------------------------------------------------------------------

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Make room for it, and await its first request."""
        full = len(self.connections) >= self.settings.max_connections
        super().connection_made(transport)
        self.reading = Reading(transport, self.loop, self.settings.send_timeout_s)
        self._crowded = full and not self._make_room()
        self.shared.waiting[self] = self.loop.time()
        self._await_next()

    def _make_room(self) -> bool:
        """End the connection that has waited longest, of those whose peer has read all answers.

        A young one is spared, as a health check's is before it has asked: where there are only such
        the newcomer is one too many, and may ask for health alone.
        """
        oldest = next((each for each in self.shared.waiting if each.has_sent_all), None)
        if oldest is None:
            return False
        age = self.loop.time() - self.shared.waiting[oldest]
        if age < YOUNG_S and len(self.connections) < self.settings.max_connections + MOST_SPARED:
            return False
        del self.shared.waiting[oldest]
        oldest.end()
        return True

    @property
    def has_sent_all(self) -> bool:
        """Whether nothing is left here of what was answered."""
        return not self.transport.get_write_buffer_size()

    def end(self) -> None:
        """Close at once."""
        self._deaf = True
        self.connections.discard(self)
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell all who work for this connection, not only the latest request."""
        self._drop_deadline()
        self.reading.stop()
        self.shared.waiting.pop(self, None)
        self.pipeline.clear()
        if self._active is not None and not self._active.response_complete:
            self._active.disconnected = True
            self._active.message_event.set()
        super().connection_lost(exc)

    def leave(self) -> None:
        """Let the answers that are due be the last."""
        if self._unanswered:
            last = self.pipeline[0][0] if self.pipeline else self._active
            last.keep_alive = False  # type: ignore[union-attr]  # it is due

    @property
    def _unanswered(self) -> bool:
        return self._active is not None and not self._active.response_complete

    # --- what the peer sends ---------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Give it to the parser in pieces."""
        try:
            for piece in self.pieces(data):
                if self._deaf:
                    self._discard(len(piece))
                else:
                    self.parse(piece)
        except (HttpParserError, ServiceError) as fault:
            self._refuse(told(fault))
        self._await_next()

    def begin_answer(self) -> None:
        """Start the application, if there is room for it.

        Raises:
            TooManyConnections: all are at work, and this is none of health's.
            NotHttp: too many requests wait behind one another.
        """
        if self._crowded and not self.url.startswith(_HEALTH):
            raise TooManyConnections(
                f"{self.settings.max_connections} connections are in use; allowed are no more "
                f"(setting {self.settings.name_of('max_connections')})"
            )
        if len(self.pipeline) >= MOST_PIPELINED:
            raise NotHttp("expected answers to be read before so many requests are sent")
        super().begin_answer()
        self.shared.waiting.pop(self, None)
        # Without `100 Continue` nobody knows whether the body will follow: so nothing else does.
        if self.shared.draining or self._crowded or self.expect_100_continue:
            self.cycle.keep_alive = False

    # --- deadlines -------------------------------------------------------------------------------

    def _await_next(self) -> None:
        """Set the deadline of what comes next; keep-alive between requests is uvicorn's."""
        awaited = (self.phase, max(1, self.messages))
        if self._deaf or self._awaited == awaited:
            return
        self._awaited = awaited
        if self.phase is Phase.HEAD:
            self._set_deadline(self.settings.head_timeout_s, self._head_is_late)
        elif self.phase is Phase.BODY:
            allowed = self.settings.body_timeout_s + AFTER_THE_APPLICATION_S
            self._set_deadline(allowed, self._body_is_late)
        else:
            self._drop_deadline()

    def _set_deadline(self, seconds: float, late: Callable[[], None]) -> None:
        self._drop_deadline()
        self._deadline = self.loop.call_later(seconds, late)

    def _drop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _head_is_late(self) -> None:
        if self.messages == 0:
            # Connections are opened in advance; an answer to no request would be misread.
            self._close()
        else:
            self._refuse(HeadTimeout(self._late("head", "head_timeout_s")))

    def _body_is_late(self) -> None:
        self._refuse(BodyTimeout(self._late("body", "body_timeout_s")))

    def _late(self, what: str, field: str) -> str:
        allowed, name = getattr(self.settings, field), self.settings.name_of(field)
        return f"the {what} did not arrive within {allowed:g} s (setting {name})"

    # --- answers ---------------------------------------------------------------------------------

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGIApp) -> None:  # type: ignore[override]
        self._active = cycle
        self.reading.begin()
        super()._start_asgi_task(cycle, app)  # type: ignore[arg-type]

    def on_response_complete(self) -> None:
        """Wait for the next request, and for the peer to read this answer."""
        super().on_response_complete()
        if not self._unanswered:
            self.shared.waiting[self] = self.loop.time()
        if not self._unanswered or self.flow.write_paused:
            self.reading.watch()

    def pause_writing(self) -> None:
        """The peer does not read as fast as the answer is written."""
        super().pause_writing()
        self.reading.watch()

    def resume_writing(self) -> None:
        """The peer has read most of what was written; nothing is added to a last rest."""
        super().resume_writing()
        if self._unanswered:
            self.reading.stop()
        else:
            self.reading.watch()

    # --- refusals --------------------------------------------------------------------------------

    def _refuse(self, error: ServiceError) -> None:
        """Read no more; say why, where an answer to this request is due; close."""
        if self._deaf or self.transport.is_closing():
            return
        self._deaf = True
        self._drop_deadline()
        at_fault = self.cycle if self.phase is Phase.BODY else None
        if self.pipeline and self.pipeline[0][0] is at_fault:
            self.pipeline.popleft()
            at_fault = None
        if at_fault is not None and at_fault.response_complete:
            self._close()
        elif at_fault is not None and not at_fault.response_started:
            at_fault.disconnected = True
            at_fault.message_event.set()
            self._answer(error, at_fault.scope)  # type: ignore[arg-type]
        elif self._unanswered:
            self.leave()
        else:
            self._answer(error)

    def _answer(self, error: ServiceError, served: Scope | None = None) -> None:
        """Of a request that the application serves, the application tells how it ended."""
        scope = served or self.read_so_far()
        answer, told = refusal(error, scope, self.server_state.default_headers)
        if served is not None:
            note_refusal(served, told)
        else:
            tell(scope, told, self.began, self._metrics)
        self.transport.write(answer)
        self.transport.write_eof()
        self.shared.waiting[self] = self.loop.time()
        self._set_deadline(LINGER_S, self._close)

    def _discard(self, count: int) -> None:
        """Throw away what comes after a refusal; while an answer is due, let it wait."""
        self._discarded += count
        if self._unanswered:
            self.flow.pause_reading()
        elif self._discarded > LINGER_BYTES:
            self._close()

    def _close(self) -> None:
        self.transport.close()
        self.reading.watch()
