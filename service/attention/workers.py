"""Threads that share the units of a pass: one a core, each with torch single-threaded."""

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import chain, islice
from threading import Lock
from typing import TypeVar

import torch

Item = TypeVar("Item")

Checkpoint = Callable[[], None]
"""Called between units; raises when the work is no longer wanted."""


class Workers:
    """Runs independent units on `threads` threads.

    torch's own parallelism splits a product differently on different machines and batch sizes;
    here a unit is always computed by one thread, so its bits depend on nothing else.
    """

    def __init__(self, threads: int = 1) -> None:
        self.threads = threads
        self._pool = (
            ThreadPoolExecutor(threads - 1, "attention", initializer=_single)
            if threads > 1
            else None
        )

    def run(
        self,
        items: Iterable[Item],
        worker: Callable[[Iterable[Item]], None],
        *,
        alone: bool = False,
    ) -> None:
        """Give every item to one of the workers; `worker` consumes the items it is handed.

        `alone` leaves all of them to the calling thread: where items are small, threads only wait
        for one another's hold of the interpreter.
        """
        items = iter(items)
        head = list(islice(items, 2))
        shared = _Shared(head, items)
        self.together(lambda: worker(shared), stop=shared.stop, alone=alone or len(head) < 2)

    def together(
        self,
        work: Callable[[], None],
        *,
        stop: Callable[[], None] = lambda: None,
        alone: bool = False,
    ) -> None:
        """Have every thread do the same work, whose parts they divide among themselves.

        `stop` makes the others' end soon, and is called when the calling thread's has ended. No
        thread is at work any more when this returns, or raises what one of them raised.
        """
        _single()
        if alone or self._pool is None:
            work()
            return
        others: list[Future[None]] = []
        try:
            others.extend(self._pool.submit(work) for _ in range(self.threads - 1))
            work()
        finally:
            stop()
            # All of them, whatever the first one raises: they write where the caller's tensors lie.
            wait(others)
        for other in others:
            other.result()

    def close(self, *, wait: bool = True) -> None:
        """End the threads, and wait for them unless they may never end."""
        if self._pool is not None:
            self._pool.shutdown(wait=wait)


class _Shared(Iterable[Item]):
    """An iterator that several threads may draw from."""

    def __init__(self, head: list[Item], rest: Iterable[Item]) -> None:
        self._lock = Lock()
        self._items = chain(head, rest)

    def __iter__(self) -> "_Shared[Item]":
        return self

    def __next__(self) -> Item:
        with self._lock:
            return next(self._items)

    def stop(self) -> None:
        with self._lock:
            self._items = chain()


def _single() -> None:
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)
