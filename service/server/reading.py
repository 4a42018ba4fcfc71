"""Whether the peer reads what was written; closing a connection alone would wait for it."""

from asyncio import AbstractEventLoop, TimerHandle, Transport

LEAST_BYTES = 64 * 1024
"""To be read in each wait, or all that is left."""


class Reading:
    """Ends a connection on which too little is read."""

    def __init__(self, transport: Transport, loop: AbstractEventLoop, wait_s: float) -> None:
        self._transport, self._loop, self._wait_s = transport, loop, wait_s
        self._timer: TimerHandle | None = None

    def watch(self) -> None:
        """From now on, as long as something is left."""
        self.stop()
        if (left := self._transport.get_write_buffer_size()) > 0:
            self._timer = self._loop.call_later(self._wait_s, self._check, left)

    def stop(self) -> None:
        """Nothing has to be read any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self, before: int) -> None:
        left = self._transport.get_write_buffer_size()
        if left and before - left < LEAST_BYTES:
            self._transport.abort()
        else:
            self.watch()
