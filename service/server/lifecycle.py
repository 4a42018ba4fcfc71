"""The life of the process: it drains before it stops, and ends even where something hangs."""

import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from threading import Timer
from time import monotonic
from types import FrameType

import uvicorn

from service.server.config import Config, Shared

_log = logging.getLogger("uvicorn.error")


class Server(uvicorn.Server):
    """Stops in three steps: work is served but readiness is not; no new connection; the end.

    Args:
        config: of this service.
        drain: called when the first step begins.
        fail: called with a reason when no more work can be done.
    """

    def __init__(
        self, config: Config, *, drain: Callable[[], None], fail: Callable[[str], None]
    ) -> None:
        super().__init__(config)
        self.server_state = self._shared = Shared()
        self._settings = config.settings
        self._drain, self._fail = drain, fail
        self._stops_at: float | None = None
        self.exit_code = 0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a handler's form
        """Begin to stop; the second signal ends the process at once."""
        if self._stops_at is not None:
            count = len(self.server_state.tasks)
            _log.warning("A second signal ends the process; requests that are cut: %d", count)
            end(128 + sig)
        delay = 0.0 if sig == signal.SIGINT else self._settings.drain_delay_s
        self._stops_at = monotonic() + delay

    def hang(self, reason: str) -> None:
        """End after the grace, with a code that asks for a new process; called from any thread."""
        _log.error("%s; the process ends, to be started anew", reason)
        self.exit_code = 1
        self._fail(reason)
        self._end_after_the_grace()

    async def on_tick(self, counter: int) -> bool:
        """What a signal has begun goes on here, ten times a second."""
        if (self._stops_at is not None or self.exit_code) and not self._shared.draining:
            self._begin_to_drain()
        if self._stops_at is not None and monotonic() >= self._stops_at:
            self.should_exit = True
        return await super().on_tick(counter)

    def _begin_to_drain(self) -> None:
        _log.info("Not ready any more; connections are accepted until the end of the drain delay")
        self._shared.draining = True
        self._drain()
        for connection in self._shared.connections:
            connection.leave()  # type: ignore[union-attr]  # all are this package's

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no connection any more, finish what is in flight, and end within the grace."""
        self._end_after_the_grace()
        await super().shutdown(sockets)

    async def _wait_tasks_to_complete(self) -> None:
        await super()._wait_tasks_to_complete()
        if self.exit_code:
            end(self.exit_code)  # the thread that hangs would be waited for

    def _end_after_the_grace(self) -> None:
        # A thread, because the loop itself waits for the engine's threads in the end.
        watchdog = Timer(self._settings.grace_s, self._cut)
        watchdog.daemon = True
        watchdog.start()

    def _cut(self) -> None:
        count = len(self.server_state.tasks)
        _log.warning(
            "The grace of %g s is over; requests that are cut: %d", self._settings.grace_s, count
        )
        end(self.exit_code)


def end(code: int) -> None:
    """End the process, whatever its threads do."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
