"""Alive and ready: never behind a queue."""

from fastapi import APIRouter, Request

from schemas.server import Health
from service.api.documentation import problems
from service.api.state import state_of
from service.errors import Draining

router = APIRouter(prefix="/health", tags=["health"])


@router.get("/live", summary="Is the process alive?", responses=problems(500))
async def health_live() -> Health:
    """Answers while the largest permitted job runs."""
    return Health(status="ok")


@router.get("/ready", summary="Does it take work?", responses=problems(500, 503))
async def health_ready(request: Request) -> Health:
    """503 while starting or stopping."""
    if not state_of(request).engine.ready:
        raise Draining("the service is starting or stopping")
    return Health(status="ok")
