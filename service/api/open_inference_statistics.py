"""Open Inference Protocol v2: what the models have done."""

from fastapi import APIRouter, Request

from schemas.open_inference import (
    AllStatistics,
    BatchStatistics,
    Duration,
    InferStatistics,
    ModelStatistics,
)
from service.api.documentation import problems
from service.api.open_inference_models import TAG, model_of, on_model
from service.api.state import State, state_of
from service.engine.model_statistics import ModelCounters, Phases, Total, executions
from service.wire.open_inference_models import MODELS, VERSION

router = APIRouter(prefix="/v2", tags=[TAG])


# Before any path with a model's name in that place.
@router.get("/models/stats", summary="What all models have done", responses=problems(500))
async def oip_all_statistics(http: Request) -> AllStatistics:
    """Counts and nanoseconds since the service started, model by model."""
    state = state_of(http)
    return AllStatistics(model_stats=[_statistics(name, state) for name in MODELS])


@on_model(
    router,
    "GET",
    "/stats",
    "oip_model_statistics",
    summary="What the model has done",
    responses=problems(404, 422, 500),
)
async def oip_model_statistics(http: Request) -> AllStatistics:
    """Counts and nanoseconds since the service started. `success` and `fail` are whole requests
    until the answer is made, `queue` the wait for the device; `compute_input` is reading the
    tensors, `compute_output` writing them, with their compression.
    """  # noqa: D205 - shown on the docs page
    return AllStatistics(model_stats=[_statistics(model_of(http).name, state_of(http))])


def _statistics(name: str, state: State) -> ModelStatistics:
    found = state.statistics.of(name)
    return ModelStatistics(
        name=name,
        version=VERSION,
        last_inference=found.last_inference_ms,
        inference_count=found.success.count,
        execution_count=found.executions,
        inference_stats=_inferences(found),
        batch_stats=[_batch(n, phases) for n, phases in sorted(found.by_batch_size.items())],
    )


def _inferences(found: ModelCounters) -> InferStatistics:
    phases = found.phases
    return InferStatistics(
        success=_duration(found.success),
        fail=_duration(found.fail),
        queue=_duration(found.queue),
        compute_input=_duration(phases.compute_input),
        compute_infer=_duration(phases.compute_infer),
        compute_output=_duration(phases.compute_output),
    )


def _batch(size: int, phases: Phases) -> BatchStatistics:
    """Of executions: what was computed together took the time of one."""
    return BatchStatistics(
        batch_size=size,
        compute_input=_duration(phases.compute_input, size),
        compute_infer=_duration(phases.compute_infer, size),
        compute_output=_duration(phases.compute_output, size),
    )


def _duration(total: Total, batch_size: int = 1) -> Duration:
    return Duration(count=executions(total, batch_size), ns=total.ns // batch_size)
