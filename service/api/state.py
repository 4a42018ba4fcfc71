"""What the routes share, made once by the application."""

from dataclasses import dataclass, field
from typing import cast

from fastapi import Request

from service.engine.engine import Engine
from service.engine.model_statistics import InferenceStatistics
from service.metrics import Metrics
from service.settings import Settings


@dataclass(frozen=True, slots=True)
class State:
    """The settings, the engine and the metrics of this application, and what its models did."""

    settings: Settings
    engine: Engine
    metrics: Metrics
    statistics: InferenceStatistics = field(default_factory=InferenceStatistics)


def state_of(request: Request) -> State:
    """The state of the application that serves this request."""
    return cast("State", request.app.state.shared)
