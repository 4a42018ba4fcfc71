"""An analysis on its device, for as long as somebody waits for it."""

import torch
from fastapi import Request

from service.api.receiving import unless_gone
from service.api.state import State
from service.engine.devices import resolve
from service.engine.engine import Timed
from service.job import Job, run
from service.report import Analysis

Analyses = list[tuple[str | None, Analysis]]


async def computed(http: Request, state: State, job: Job) -> tuple[torch.device, Timed[Analyses]]:
    """The device a job asks for, and its analyses.

    Raises:
        UnavailableDevice, Busy, Draining, DeadlineExceeded, Invalid: it was not computed.
        ClientDisconnect: the caller has gone; the work is cancelled.
    """
    engine, device = state.engine, resolve(job.call.options.compute.device)
    timed = await unless_gone(
        http, engine.compute(lambda checkpoint: run(job, device, engine.workers, checkpoint))
    )
    return device, timed
