"""Threads beside the event loop: one a device that computes, one that draws, a few that code."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from time import monotonic
from typing import Any, TypeVar

import torch

from service.engine.admission import Admission, Stay
from service.engine.computer import Computer, Timed
from service.engine.devices import resolve, usable_cores
from service.engine.passes import choose
from service.engine.ticket import Ticket
from service.engine.waiting import Entry, Work
from service.errors import Draining
from service.metrics import Metrics
from service.runtime import pass_name
from service.settings import Settings

Result = TypeVar("Result")


class Engine:
    """Runs work off the event loop, so that health answers while the largest job computes."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings, self._metrics = settings, metrics
        self.threads = settings.threads or usable_cores()
        self.native = choose(settings)
        self.admission = Admission(settings)
        self.ready = False
        self._computers: dict[torch.device, Computer] = {}
        self.warm = True
        self.draining = False
        self.on_hang: Callable[[str], None] = lambda reason: None  # noqa: ARG005 - a hook's form
        """Called with a reason, from any thread, when only a new process can compute again."""
        self._failure: str | None = None

    def start(self) -> None:
        """Start the threads; a device other than the default one gets its own when it is used."""
        self._coding = ThreadPoolExecutor(
            2, "coding", initializer=torch.set_num_threads, initargs=(1,)
        )
        self._drawing = ThreadPoolExecutor(1, "drawing")
        self._computer(resolve("auto"))
        self.ready = True

    def stop(self) -> None:
        """Let running work end, and end the threads."""
        self.ready = False
        for computer in self._computers.values():
            computer.stop()
        self._coding.shutdown(cancel_futures=True)
        self._drawing.shutdown(cancel_futures=True)

    @property
    def pass_name(self) -> str:
        """Which pass computes on the default device, as answers name it."""
        return pass_name(self.native, resolve("auto"))

    @property
    def queue_length(self) -> int:
        """How many computations wait for a device; asked from any thread."""
        return sum(len(computer.waiting) for computer in list(self._computers.values()))

    @property
    def abandoned_s(self) -> float:
        """For how many seconds a device has computed what nobody waits for."""
        return max((c.abandoned_s for c in self._computers.values()), default=0.0)

    def _computer(self, device: torch.device) -> Computer:
        if device not in self._computers:
            # A device of its own has its own parallelism; more threads would only feed it.
            threads = self.threads if device.type == "cpu" else 1
            most = self._settings.largest_batch
            self._computers[device] = Computer(device, threads, most, self._metrics, self.native)
        return self._computers[device]

    def drain(self) -> None:
        """Be ready no more, but go on working."""
        self.draining = True

    def fail(self, reason: str) -> None:
        """Compute no more; what is computed is still written."""
        self._failure = reason

    def unready_reason(self) -> str | None:
        """Why no work should be sent here, or None."""
        if not self.ready:
            return "the service is starting or stopping"
        if self._failure is None and self.draining:
            return "the service is stopping"
        return self._failure or (None if self.warm else "the service is warming up")

    def _refuse_unless_ready(self) -> None:
        if not self.ready:
            raise Draining("the service is starting or stopping")

    async def code(
        self, work: Callable[[], Result], stay: Stay, ticket: Ticket, *, small: bool = False
    ) -> Result:
        """Parse or write: off the event loop, but for what is done before a thread would begin.

        Raises:
            Draining: the service is starting or stopping.
            DeadlineExceeded: it did not end in time.
        """
        self._refuse_unless_ready()
        if small:
            ticket.checkpoint()
            return work()
        return await _in_time(self._coding.submit(copy_context().run, work), stay, ticket)

    def series(self, stay: Stay, *, timeout_s: float | None = None) -> "Series":
        """What is done for one request, with one deadline for all of it.

        Between two computations the device is free for others.

        Args:
            stay: what the request holds; it is held until the last computation has ended.
            timeout_s: a deadline of the caller's, from the arrival of the request.
        """
        limit = self._settings.deadline_s
        ticket = Ticket(monotonic() + limit, f"setting {self._settings.name_of('deadline_s')}")
        return Series(self, stay, ticket).within(timeout_s)

    async def run(
        self, device: torch.device, work: Work[Any, Result], stay: Stay, ticket: Ticket
    ) -> Timed[Result]:
        """One computation of a series.

        Raises:
            Draining: the service is stopping, or can compute no more.
            DeadlineExceeded: it did not end in time.
        """
        self._refuse_unless_ready()
        if self._failure is not None:
            raise Draining(self._failure)
        # What came with this in one turn of the event loop shares its batch: put at once, the first
        # would be computed alone (6.0 to a batch by 8 connections, against 1.6).
        await asyncio.sleep(0)
        entry, waiting = Entry(work, ticket), self._computer(device).waiting
        waiting.put(entry)
        try:
            return await _in_time(entry.future, stay, ticket)
        finally:
            waiting.discard(entry)

    async def draw(self, work: Callable[[], Result], stay: Stay, ticket: Ticket) -> Result:
        """Draw a picture on the one thread that does: text is laid out by one at a time.

        Raises:
            Draining: the service is starting or stopping.
            DeadlineExceeded: it did not end in time.
        """
        self._refuse_unless_ready()
        return await _in_time(self._drawing.submit(copy_context().run, work), stay, ticket)


async def _in_time(future: "Future[Result]", stay: Stay, ticket: Ticket) -> Result:
    """Wait for work of another thread, which wakes the event loop once.

    Raises:
        DeadlineExceeded: it did not end in time; where it has not begun it never will.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[Result] = loop.create_future()

    def settle() -> None:
        stay.ended(future)
        if not ended.done():
            _copy(future, ended)

    def wake(_: "Future[Result]") -> None:
        with suppress(RuntimeError):  # the loop is closed: nothing is counted any more
            loop.call_soon_threadsafe(settle)

    def expire() -> None:
        if not ended.done():
            ended.set_exception(ticket.expired())

    stay.until(future)
    future.add_done_callback(wake)
    timer = loop.call_later(ticket.left_s, expire)
    try:
        return await ended
    finally:
        timer.cancel()
        future.cancel()


def _copy(future: "Future[Result]", ended: "asyncio.Future[Result]") -> None:
    if future.cancelled():
        ended.cancel()
    elif (error := future.exception()) is not None:
        ended.set_exception(error)
    else:
        ended.set_result(future.result())


class Series:
    """What is done for one request: parsed, computed, drawn and written."""

    def __init__(self, engine: Engine, stay: Stay, ticket: Ticket) -> None:
        self._engine, self._stay, self.ticket = engine, stay, ticket

    def within(self, timeout_s: float | None) -> "Series":
        """The same with a sooner deadline, where it is one: seconds from the request's arrival."""
        if timeout_s is None or self._stay.began + timeout_s >= self.ticket.deadline:
            return self
        ticket = Ticket(self._stay.began + timeout_s, f"the request allows {timeout_s:g} s")
        return Series(self._engine, self._stay, ticket)

    async def code(self, work: Callable[[], Result], *, small: bool = False) -> Result:
        """Parse or write, off the event loop unless that is quickly done.

        Raises:
            Draining: the service is starting or stopping.
            DeadlineExceeded: it did not end in time.
        """
        return await self._engine.code(work, self._stay, self.ticket, small=small)

    async def compute(
        self, work: Work[Any, Result], device: torch.device | None = None
    ) -> Timed[Result]:
        """The next of them, on the default device unless another is named.

        Raises:
            Draining: the service is stopping.
            DeadlineExceeded: it did not end in time.
        """
        chosen = resolve("auto") if device is None else device
        try:
            return await self._engine.run(chosen, work, self._stay, self.ticket)
        except asyncio.CancelledError:
            self.ticket.drop()
            raise

    async def draw(self, work: Callable[[], Result]) -> Result:
        """A picture of what was computed.

        Raises:
            Draining: the service is stopping.
            DeadlineExceeded: it did not end in time.
        """
        return await self._engine.draw(work, self._stay, self.ticket)
