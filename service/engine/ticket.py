"""How computing work learns that nobody waits for it any more."""

from threading import Event
from time import monotonic

from service.errors import DeadlineExceeded


class Ticket:
    """The deadline of a request, and whether its caller has gone; read by the compute thread.

    `source` names what set the deadline.
    """

    def __init__(self, deadline: float, source: str) -> None:
        self.deadline, self._source = deadline, source
        self._dropped = Event()
        self._dropped_at = deadline

    @property
    def left_s(self) -> float:
        """Seconds until the deadline, 0 after it."""
        return max(0.0, self.deadline - monotonic())

    @property
    def over_s(self) -> float:
        """For how many seconds nobody has waited."""
        since = self._dropped_at if self._dropped.is_set() else self.deadline
        return max(0.0, monotonic() - since)

    @property
    def over(self) -> bool:
        """Whether nobody waits any more."""
        return self._dropped.is_set() or monotonic() > self.deadline

    def drop(self) -> None:
        """Ask the work to stop at its next checkpoint."""
        if not self._dropped.is_set():
            self._dropped_at = min(self.deadline, monotonic())
            self._dropped.set()

    def checkpoint(self) -> None:
        """Called between blocks.

        Raises:
            DeadlineExceeded: the deadline has passed, or the caller is gone.
        """
        if self.over:
            raise self.expired()

    def expired(self) -> DeadlineExceeded:
        """The error that says so."""
        return DeadlineExceeded(f"the analysis did not end in time ({self._source})")
