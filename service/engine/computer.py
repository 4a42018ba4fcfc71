"""The one thread that computes on a device."""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Thread
from time import monotonic
from typing import Any, Generic, TypeVar

import torch

from service.attention.native.library import Native
from service.attention.workers import Workers
from service.engine.failures import told
from service.engine.ticket import Ticket
from service.engine.waiting import Entry, Waiting
from service.errors import ServiceError
from service.metrics import Metrics
from service.runtime import Runtime

Result = TypeVar("Result")
_log = logging.getLogger("service")
_JOIN_S = 5.0


@dataclass(frozen=True, slots=True)
class Timed(Generic[Result]):
    """A result, the milliseconds it waited and took, and how many were computed together."""

    result: Result
    queue_ms: float
    compute_ms: float
    batch_size: int = 1


class Computer:
    """Takes what waits for its device, batch by batch.

    The thread is a daemon: work that never returns must not keep the process alive.
    """

    def __init__(
        self,
        device: torch.device,
        threads: int,
        most_together: int,
        metrics: Metrics,
        native: Native | None = None,
    ) -> None:
        self.device, self._metrics, self._native = device, metrics, native
        self.waiting = Waiting(most_together)
        self._running: tuple[Entry, ...] = ()
        self._workers = Workers(threads)
        self._thread = Thread(target=self._serve, name=f"compute-{device}", daemon=True)
        self._thread.start()

    @property
    def abandoned_s(self) -> float:
        """For how many seconds something has run that nobody waits for."""
        return min((entry.ticket.over_s for entry in self._running), default=0.0)

    def stop(self) -> None:
        """Cancel what waits, let what runs end, and end the threads."""
        self.waiting.close()
        for entry in self._running:
            entry.ticket.drop()
        self._thread.join(_JOIN_S)
        self._workers.close(wait=not self._thread.is_alive())

    def _serve(self) -> None:
        torch.set_num_threads(1)
        while self._serve_once():
            pass

    def _serve_once(self) -> bool:
        """Compute what is taken next; between two of these no frame holds what was computed."""
        entries = self.waiting.take()
        self._running = tuple(e for e in entries if e.future.set_running_or_notify_cancel())
        if self._running:
            self._compute(self._running)
        self._running = ()
        return bool(entries)

    def _compute(self, entries: Sequence[Entry]) -> None:
        """One computation for all; if it fails as a whole, each gets one of its own."""
        began = monotonic()
        checkpoint = _checkpoint([entry.ticket for entry in entries])
        runtime = Runtime(self.device, self._workers, checkpoint, self._native)
        work = entries[0].work
        try:
            checkpoint()
            results = list(work.together([entry.work.item for entry in entries], runtime))
            pairs = list(zip(entries, results, strict=True))
        except BaseException as error:  # noqa: BLE001 - the thread must outlive whatever is thrown
            if len(entries) > 1 and not isinstance(error, ServiceError):
                _log.warning("a batch of %d failed; each is computed alone", len(entries))
                for entry in entries:
                    self._compute([entry])
                return
            pairs = [(entry, told(error)) for entry in entries]
        took = (monotonic() - began) * 1e3
        self._metrics.computed(work.mechanism, took / 1e3)
        self._metrics.batch(len(entries))
        for entry, result in pairs:
            waited = (began - entry.queued) * 1e3
            self._metrics.queue_wait(waited / 1e3)
            _settle(entry.future, result, waited, took, len(entries))


def _settle(
    future: "Future[Any]", result: Any, queue_ms: float, compute_ms: float, together: int
) -> None:
    if isinstance(result, BaseException):
        future.set_exception(result)
    else:
        future.set_result(Timed(result, queue_ms, compute_ms, together))


def _checkpoint(tickets: list[Ticket]) -> Callable[[], None]:
    """Work goes on while somebody waits for any of it."""
    if len(tickets) == 1:
        return tickets[0].checkpoint

    def checkpoint() -> None:
        if all(ticket.over for ticket in tickets):
            raise tickets[0].expired()

    return checkpoint
