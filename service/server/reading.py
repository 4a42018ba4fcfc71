"""Whether the peer reads what was written; closing a connection alone would wait for it."""

from asyncio import AbstractEventLoop, TimerHandle, Transport

LEAST_BYTES = 64 * 1024
"""To be read in each wait, or all that is left."""
LEAST_RATE = 256 * 1024
"""Bytes to be read in each second of a whole answer, beyond one wait: the largest answer is in
memory until it is read."""


class Reading:
    """Ends a connection on which too little is read."""

    def __init__(self, transport: Transport, loop: AbstractEventLoop, wait_s: float) -> None:
        self._transport, self._loop, self._wait_s = transport, loop, wait_s
        self._timer: TimerHandle | None = None
        self._before, self._since, self._late_s = 0, 0.0, 0.0

    def begin(self) -> None:
        """Another answer begins: how late the one before it was does not matter any more."""
        self.stop()
        self._late_s = 0.0

    def watch(self) -> None:
        """From now on, as long as something is left."""
        self.stop()
        if (left := self._transport.get_write_buffer_size()) > 0:
            self._before, self._since = left, self._loop.time()
            # Pieces of a stream that are each read in time can together be late already.
            wait_s = 0.0 if self._is_late else self._wait_s
            self._timer = self._loop.call_later(wait_s, self._check)

    def stop(self) -> None:
        """Nothing has to be read any more, or not yet."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._late_s += self._loop.time() - self._since - self._read() / LEAST_RATE

    @property
    def _is_late(self) -> bool:
        return self._late_s > self._wait_s

    def _read(self) -> int:
        return max(0, self._before - self._transport.get_write_buffer_size())

    def _check(self) -> None:
        is_too_little = self._read() < LEAST_BYTES
        self.watch()
        if self._timer is not None and (is_too_little or self._is_late):
            self.stop()
            self._transport.abort()
