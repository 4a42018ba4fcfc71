"""How much memory work holds at a time."""

from collections.abc import Callable
from typing import TypeVar

from torch.profiler import ProfilerActivity, profile

Found = TypeVar("Found")


def peak_of(work: Callable[[], Found]) -> tuple[int, int, Found]:
    """The most bytes that torch holds at a time, those it still holds at the end, what work gave.

    Beside what it held before.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        found = work()
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    assert most > 0
    return most, held, found
