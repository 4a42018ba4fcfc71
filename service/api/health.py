"""Alive and ready: never behind a queue."""

from fastapi import APIRouter, Request

from schemas.server import Health
from service.api.documentation import problems
from service.api.probing import probe
from service.api.state import state_of
from service.errors import Draining

router = APIRouter(prefix="/health", tags=["health"])


@probe(router, "/live", summary="Is the process alive?", responses=problems(500))
async def health_live() -> Health:
    """Answers while the largest permitted job runs."""
    return Health(status="ok")


@probe(router, "/ready", summary="Does it take work?", responses=problems(500, 503))
async def health_ready(request: Request) -> Health:
    """503 while warming up, and as soon as it is told to stop: work in flight and work that still
    comes is finished. 503 too where a computation hangs, until the process is started anew.
    """  # noqa: D205 - shown on the docs page
    if (reason := state_of(request).engine.unready_reason()) is not None:
        raise Draining(reason)
    return Health(status="ok")
