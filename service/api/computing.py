"""An analysis on its device, for as long as somebody waits for it."""

import torch
from fastapi import Request

from service.api.receiving import Received, unless_gone
from service.api.state import State
from service.engine.computer import Timed
from service.engine.devices import resolve
from service.engine.engine import Series
from service.engine.waiting import Work
from service.job import Analyses, Job, key_of, run_together


def series_of(state: State, given: Received) -> Series:
    """The computations of a request, with its deadline."""
    return state.engine.series(given.stay, timeout_s=given.timeout_s)


async def computed(http: Request, job: Job, series: Series) -> tuple[torch.device, Timed[Analyses]]:
    """The device a job asks for, and its analyses.

    Raises:
        UnavailableDevice, Draining, DeadlineExceeded, OutOfMemory, Invalid: it was not computed.
        ClientDisconnect: the caller has gone; the work is cancelled.
    """
    device = resolve(job.call.options.compute.device)
    work: Work[Job, Analyses] = Work(job, run_together, key_of(job))
    return device, await unless_gone(http, series.compute(work, device))
