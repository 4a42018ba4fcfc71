"""What is let in: bounded bytes in flight and bounded places, refused before work starts."""

import math
from concurrent.futures import Future
from time import monotonic
from typing import Any

from service.errors import Busy
from service.settings import Settings

_LONGEST_RETRY_S = 30


class Admission:
    """Counts what is being served; used from the event loop only."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.bytes_in_flight = 0
        self._places: dict[Stay, float] = {}

    @property
    def waiting(self) -> int:
        """Requests whose body is here and whose answer is not made."""
        return len(self._places)

    @property
    def retry_after_s(self) -> int:
        """When to try again: the oldest request in here has waited that long."""
        now = monotonic()
        waited = now - next(iter(self._places.values()), now)
        return max(1, min(_LONGEST_RETRY_S, math.ceil(waited)))

    def stay(self) -> "Stay":
        """The account of one request."""
        return Stay(self)

    def refuse_if_full(self) -> None:
        """Refuse at the door, before a body is read.

        Raises:
            Busy: all places are taken.
        """
        if self.waiting >= self._settings.max_queue:
            raise Busy(
                f"{self.waiting} requests are being worked on or waiting; allowed are "
                f"{self._settings.max_queue} (setting {self._settings.name_of('max_queue')})",
                retry_after_s=self.retry_after_s,
            )

    def refuse_bytes(self, needed: int, *, own: int) -> None:
        """Refuse what would not fit beside the others.

        A request is never refused for what it holds itself, `own`: alone it is always let in.

        Raises:
            Busy: what is in flight leaves too little.
        """
        allowed = self._settings.max_in_flight_bytes
        if self.bytes_in_flight > own and self.bytes_in_flight + needed > allowed:
            raise Busy(
                f"{self.bytes_in_flight:,} bytes are in flight and {needed:,} more are needed; "
                f"allowed are {allowed:,} together "
                f"(setting {self._settings.name_of('max_in_flight_bytes')})",
                retry_after_s=self.retry_after_s,
            )

    def enter(self, stay: "Stay") -> None:
        """Note that a request has its place from now on."""
        self._places[stay] = monotonic()

    def leave(self, stay: "Stay") -> None:
        """Note that a request needs its place no more."""
        self._places.pop(stay, None)


class Stay:
    """What one request holds, from its first byte until its answer is sent.

    Where nobody waits for a computation any more it still runs to its next checkpoint: what it
    works on counts until then.
    """

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._running: set[Future[Any]] = set()
        self._closed = False
        self.bytes_held = 0
        self.began = monotonic()

    def hold(self, bytes_needed: int) -> None:
        """Reserve memory, beside what is held already.

        Raises:
            Busy: what is in flight leaves too little.
        """
        self._admission.refuse_bytes(bytes_needed, own=self.bytes_held)
        self._add(bytes_needed)

    def refuse_unless_fits(self, bytes_needed: int) -> None:
        """Refuse what could not be held now, without holding it.

        Raises:
            Busy: what is in flight leaves too little.
        """
        self._admission.refuse_bytes(bytes_needed, own=self.bytes_held)

    def keep(self, bytes_needed: int) -> None:
        """Hold no more than this from now on."""
        self._add(min(0, bytes_needed - self.bytes_held))

    def refuse_unless_place(self) -> None:
        """Refuse at the door, before a body is read.

        Raises:
            Busy: all places are taken.
        """
        self._admission.refuse_if_full()

    def take_place(self) -> None:
        """Take a place among the requests that are worked on.

        Raises:
            Busy: all places are taken.
        """
        self._admission.refuse_if_full()
        self._admission.enter(self)

    def leave_place(self) -> None:
        """The answer is made."""
        self._admission.leave(self)

    def until(self, work: "Future[Any]") -> None:
        """Hold everything at least until this work has ended; called as it is begun."""
        self._running.add(work)

    def ended(self, work: "Future[Any]") -> None:
        """This work has ended."""
        self._running.discard(work)
        self._give_back()

    def close(self) -> None:
        """The answer is sent, or nobody waits for it."""
        self._closed = True
        self._give_back()

    def _give_back(self) -> None:
        if self._closed and not self._running:
            self.leave_place()
            self._add(-self.bytes_held)

    def _add(self, count: int) -> None:
        self.bytes_held += count
        self._admission.bytes_in_flight += count
