"""What is let in: bounded bytes in flight and a bounded queue, refused before work starts."""

from collections.abc import Iterator
from contextlib import contextmanager

from service.errors import Busy
from service.settings import Settings


class Admission:
    """Counts what is being served; used from the event loop only."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.bytes_in_flight = 0
        self.waiting = 0

    @contextmanager
    def hold(self, bytes_needed: int, *, own: int = 0) -> Iterator[None]:
        """Reserve memory for as long as the block runs.

        A request is never refused for what it holds itself, `own`: alone it is always let in.

        Raises:
            Busy: what is in flight leaves too little.
        """
        allowed = self._settings.max_in_flight_bytes
        others = self.bytes_in_flight - own
        if others and self.bytes_in_flight + bytes_needed > allowed:
            raise Busy(
                f"{self.bytes_in_flight:,} bytes are in flight and {bytes_needed:,} more are "
                f"needed; allowed are {allowed:,} together "
                f"(setting {self._settings.name_of('max_in_flight_bytes')})"
            )
        self.bytes_in_flight += bytes_needed
        try:
            yield
        finally:
            self.bytes_in_flight -= bytes_needed

    @contextmanager
    def place(self) -> Iterator[None]:
        """Take a place in the queue.

        Raises:
            Busy: the queue is full.
        """
        if self.waiting >= self._settings.max_queue:
            raise Busy(
                f"{self.waiting} analyses are waiting; allowed are {self._settings.max_queue} "
                f"(setting {self._settings.name_of('max_queue')})"
            )
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1
