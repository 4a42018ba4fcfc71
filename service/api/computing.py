"""An analysis on its device, for as long as somebody waits for it."""

from collections.abc import Iterable

import torch
from fastapi import Request

from service.api.observing import note_timing
from service.api.receiving import unless_gone
from service.engine.computer import Timed
from service.engine.devices import resolve
from service.engine.engine import Series
from service.engine.waiting import Work
from service.job import Analyses, Job, key_of, run_together
from service.mechanisms import MECHANISMS
from service.plan import Plan

GIVEN, SEVERAL = "given", "several"
COUNTED_AS = (*MECHANISMS, GIVEN, SEVERAL)
"""What computing time is told apart by: a mechanism, logits or weights as given, or a mixture."""


def counted_as(plans: Iterable[Plan]) -> str:
    """Which of them these plans are."""
    names = {plan.mechanism.description.name if plan.scored else GIVEN for plan in plans}
    return names.pop() if len(names) == 1 else SEVERAL


async def computed(http: Request, job: Job, series: Series) -> tuple[torch.device, Timed[Analyses]]:
    """The device a job asks for, and its analyses.

    Raises:
        UnavailableDevice, Draining, DeadlineExceeded, OutOfMemory, Invalid: it was not computed.
        ClientDisconnect: the caller has gone; the work is cancelled.
    """
    device = resolve(job.call.options.compute.device)
    counted = counted_as(plan for _, plan in job.plans)
    work: Work[Job, Analyses] = Work(job, run_together, key_of(job), counted)
    timed = await unless_gone(http, series.compute(work, device))
    note_timing(http.scope, timed)
    return device, timed
