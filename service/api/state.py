"""What the routes share, made once by the application."""

from dataclasses import dataclass
from typing import cast

from fastapi import Request

from service.engine.engine import Engine
from service.settings import Settings


@dataclass(frozen=True, slots=True)
class State:
    """The settings and the engine of this application."""

    settings: Settings
    engine: Engine


def state_of(request: Request) -> State:
    """The state of the application that serves this request."""
    return cast("State", request.app.state.shared)
