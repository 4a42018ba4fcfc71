"""What waits for a device, in the order it came; what can be computed together is taken together.

No timer: a request that is alone when the device is free is computed at once, and what came while
the device was busy shares the next computation.
"""

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Condition
from time import monotonic
from typing import Any, Generic, TypeVar

from service.engine.ticket import Ticket
from service.errors import ServiceError
from service.runtime import Runtime

Result = TypeVar("Result")
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Work(Generic[Item, Result]):
    """Something to compute.

    `together` computes many items with an equal `key` at once and gives a result, or what is wrong
    with it, for each; a key of None is equal to no other. `mechanism` is what its time counts for.
    """

    item: Item
    together: Callable[[Sequence[Item], Runtime], Sequence[Result | ServiceError]]
    key: Hashable = None
    mechanism: str = ""

    @classmethod
    def alone(cls, compute: Callable[[Runtime], Result], mechanism: str) -> "Work[Any, Result]":
        """Work that shares nothing."""

        def together(items: Sequence[Any], runtime: Runtime) -> list[Result]:
            return [compute(runtime) for compute in items]

        return Work(compute, together, mechanism=mechanism)


@dataclass(eq=False, slots=True)
class Entry:
    """Work in the queue; `future` carries its result across threads."""

    work: Work[Any, Any]
    ticket: Ticket
    queued: float = field(default_factory=monotonic)
    future: Future[Any] = field(default_factory=Future)


class Waiting:
    """A queue that gives out batches; bounded by admission."""

    def __init__(self, most_together: int) -> None:
        self._most = most_together
        self._entries: deque[Entry] = deque()
        self._changed = Condition()
        self._closed = False

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, entry: Entry) -> None:
        """Add at the end."""
        with self._changed:
            self._entries.append(entry)
            self._changed.notify()

    def discard(self, entry: Entry) -> None:
        """Forget an entry that nobody waits for; one that has been taken is left alone."""
        with self._changed:
            if entry in self._entries:
                self._entries.remove(entry)

    def take(self) -> list[Entry]:
        """Wait for work: the oldest, and what can be computed with it; none once it is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._entries)
            if self._closed:
                return []
            first = self._entries.popleft()
            key = first.work.key
            if key is None:
                return [first]
            equal = [entry for entry in self._entries if entry.work.key == key]
            taken = equal[: self._most - 1]
            for entry in taken:
                self._entries.remove(entry)
            return [first, *taken]

    def close(self) -> None:
        """Give out nothing more; what waits is cancelled."""
        with self._changed:
            self._closed = True
            for entry in self._entries:
                entry.future.cancel()
            self._entries.clear()
            self._changed.notify_all()
