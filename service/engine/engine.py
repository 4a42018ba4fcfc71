"""Threads beside the event loop: one that computes, one that draws, a few that parse and write."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event
from time import monotonic
from typing import Generic, TypeVar

import torch

from service.attention.workers import Workers
from service.engine.admission import Admission
from service.engine.devices import usable_cores
from service.errors import DeadlineExceeded, Draining
from service.settings import Settings

Result = TypeVar("Result")
Work = Callable[[Callable[[], None]], Result]
"""What computes; it is handed its checkpoint."""


class Ticket:
    """How computing work learns that nobody waits for it any more."""

    def __init__(self, deadline: float, setting: str) -> None:
        self.deadline, self._setting = deadline, setting
        self._dropped = Event()

    def drop(self) -> None:
        """Ask the work to stop at its next checkpoint."""
        self._dropped.set()

    def checkpoint(self) -> None:
        """Called between blocks.

        Raises:
            DeadlineExceeded: the deadline has passed, or the caller is gone.
        """
        if self._dropped.is_set() or monotonic() > self.deadline:
            raise self.expired()

    def expired(self) -> DeadlineExceeded:
        """The error that says so."""
        return DeadlineExceeded(f"the analysis did not end in time (setting {self._setting})")


@dataclass(frozen=True, slots=True)
class Timed(Generic[Result]):
    """A result, and the milliseconds it waited and took."""

    result: Result
    queue_ms: float
    compute_ms: float


class Engine:
    """Runs work off the event loop, so that health answers while the largest job computes."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.threads = settings.threads or usable_cores()
        self.admission = Admission(settings)
        self.ready = False

    def start(self) -> None:
        """Start the threads and warm up torch."""
        self.workers = Workers(self.threads)
        self._computing = ThreadPoolExecutor(
            1, "compute", initializer=torch.set_num_threads, initargs=(1,)
        )
        self._coding = ThreadPoolExecutor(
            2, "coding", initializer=torch.set_num_threads, initargs=(1,)
        )
        self._drawing = ThreadPoolExecutor(1, "drawing")
        self.ready = True

    def stop(self) -> None:
        """Let running work end, and end the threads."""
        self.ready = False
        self._computing.shutdown(cancel_futures=True)
        self._coding.shutdown(cancel_futures=True)
        self._drawing.shutdown(cancel_futures=True)
        self.workers.close()

    def _refuse_unless_ready(self) -> None:
        if not self.ready:
            raise Draining("the service is starting or stopping")

    async def code(self, work: Callable[[], Result]) -> Result:
        """Parse or write off the event loop.

        Raises:
            Draining: the service is starting or stopping.
        """
        self._refuse_unless_ready()
        return await asyncio.get_running_loop().run_in_executor(self._coding, work)

    async def draw(self, work: Callable[[], Result]) -> Result:
        """Draw a picture on the one thread that does: text is laid out by one at a time.

        Raises:
            Draining: the service is starting or stopping.
        """
        self._refuse_unless_ready()
        return await asyncio.get_running_loop().run_in_executor(self._drawing, work)

    async def compute(self, work: Work[Result]) -> Timed[Result]:
        """Run an analysis on the compute thread; it is handed its checkpoint.

        Raises:
            Busy: the queue is full.
            Draining: the service is stopping.
            DeadlineExceeded: it did not end in time.
        """
        with self.series() as series:
            return await series.compute(work)

    @contextmanager
    def series(self) -> Iterator["Series"]:
        """Many computations of one request: one place in the queue, one deadline for all.

        Between two of them the device is free for others.

        Raises:
            Busy: the queue is full.
        """
        limit = self._settings.deadline_s
        ticket = Ticket(monotonic() + limit, self._settings.name_of("deadline_s"))
        with self.admission.place():
            try:
                yield Series(self, ticket)
            finally:
                ticket.drop()

    async def run(self, ticket: Ticket, work: Work[Result]) -> Timed[Result]:
        """One computation of a series.

        Raises:
            Draining: the service is stopping.
            DeadlineExceeded: it did not end in time.
        """
        self._refuse_unless_ready()
        queued = monotonic()

        def run() -> Timed[Result]:
            ticket.checkpoint()
            began = monotonic()
            result = work(ticket.checkpoint)
            return Timed(result, (began - queued) * 1e3, (monotonic() - began) * 1e3)

        future = asyncio.get_running_loop().run_in_executor(self._computing, run)
        try:
            return await asyncio.wait_for(future, max(0.0, ticket.deadline - queued))
        except TimeoutError:
            raise ticket.expired() from None


class Series:
    """The computations of one request."""

    def __init__(self, engine: Engine, ticket: Ticket) -> None:
        self._engine, self._ticket = engine, ticket

    @property
    def left_s(self) -> float:
        """Seconds until the deadline, 0 after it."""
        return max(0.0, self._ticket.deadline - monotonic())

    async def compute(self, work: Work[Result]) -> Timed[Result]:
        """The next of them; as `Engine.compute`, without taking a place."""
        return await self._engine.run(self._ticket, work)
