"""Threads that divide a job of the library among themselves, and look up from it now and then."""

from collections.abc import Callable

from service.attention.native.structures import Job
from service.attention.workers import Workers

# As many logits take a core some 10 ms; between such pieces a thread looks whether it is to go on.
LOGITS_A_CALL = 2**22
# Two threads gain nothing on fewer logits: the second takes 50 µs to begin.
_ALONE = 2**16

Call = Callable[[], bool]
"""Computes some of a job; whether some may be left."""


def divide(
    job: Job,
    begin: Callable[[], Call],
    workers: Workers,
    checkpoint: Callable[[], None],
    *,
    units: int,
) -> None:
    """Compute all units of a job; each thread begins with a call of its own.

    Raises:
        Whatever the calls or `checkpoint` raise.
    """

    def work() -> None:
        try:
            checkpoint()
            call = begin()
            while call():
                checkpoint()
        except BaseException:
            job.stopped = 1
            raise

    logits = job.batch * job.heads * job.queries * job.keys
    # No stop: where one thread has ended nothing is left to take, or `stopped` says so to all.
    workers.together(work, alone=units == 1 or logits <= _ALONE)


def a_call(unit_logits: int) -> int:
    """How many units of so many logits are computed between two checkpoints."""
    return max(1, LOGITS_A_CALL // max(1, unit_logits))
