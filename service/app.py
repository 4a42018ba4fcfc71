"""The application: the one place that knows every floor. Nothing happens at import time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.middleware import Middleware

from service.api import (
    about,
    attention,
    comparisons,
    docs_pages,
    documentation,
    health,
    open_inference,
    open_inference_infer,
    open_inference_models,
    open_inference_statistics,
    problems,
    scraping,
    softmax,
    sweeps,
)
from service.api.api_key import ApiKey
from service.api.computing import COUNTED_AS
from service.api.cross_origin import CrossOrigin
from service.api.observing import Observing
from service.api.paths import STATIC
from service.api.request_id import RequestId
from service.api.security_headers import SecurityHeaders
from service.api.state import State
from service.api.stays import Stays
from service.api.telemetry import telemetry_of
from service.api.unexpected import Unexpected
from service.api.warming import warmed
from service.api.whole_files import WholeFiles
from service.engine.devices import gpu_memory
from service.engine.engine import Engine
from service.engine.hanging import watch
from service.metrics import Metrics
from service.settings import Settings

_DESCRIPTION = """
Post query, key and value; learn what your attention does and whether it is saturated: how large
the logits are and ought to be, how close to one-hot each row is, how much gradient still passes
the softmax, how far from theory, and what would mend it.

**First**: open `POST /v1/attention`, choose an example and press *Execute*. Large
tensors travel as safetensors: `curl --data-binary @file.safetensors -H 'Content-Type:
application/x-safetensors'`. `GET /v1/catalogue` explains every number.

Every request may say in the header `X-Request-Timeout-Ms` how long it waits for its answer, and
name itself in `X-Request-ID`.
"""
_TAGS = [
    {"name": "attention", "description": "Run attention and diagnose it."},
    {"name": "laboratory", "description": "Softmax, sweeps and comparisons: why, and what mends."},
    {
        "name": "open inference",
        "description": "Open Inference Protocol v2 (KServe, Triton): each mechanism is a model.",
    },
    {"name": "about", "description": "What is on offer, allowed, and running."},
    {"name": "health", "description": "For those who operate it."},
]

# Statistics first: `stats` stands there where other paths have the name of a model.
_ROOMS = (
    attention,
    softmax,
    sweeps,
    comparisons,
    open_inference_statistics,
    open_inference_infer,
    open_inference_models,
    open_inference,
    about,
    health,
    scraping,
    docs_pages,
)


def create_app(settings: Settings | None = None, *, warm_up: bool = False) -> FastAPI:
    """An application with its own settings and engine; threads start with its lifespan.

    Where it warms up, it is ready only after it has answered a request of its own.
    """
    settings = settings or Settings()
    metrics = Metrics(mechanisms=COUNTED_AS, reasons=problems.known_problems())
    engine = Engine(settings, metrics)
    engine.warm = not warm_up
    _gauges(engine, metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine.start()
        beside = [asyncio.create_task(watch(engine, settings.hang_after_s))]
        if warm_up:
            # In the background, so that liveness answers meanwhile.
            beside.append(asyncio.create_task(warmed(app, engine, settings)))
        try:
            yield
        finally:
            for task in beside:
                task.cancel()
            engine.stop()

    app = FastAPI(
        # The docs pages and the document have a room here.
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        title="Attention analysis",
        summary="What is my attention doing, and is it saturated?",
        description=_DESCRIPTION,
        version=version("attention-analysis"),
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        openapi_tags=_TAGS,
        generate_unique_id_function=_operation_id,
        lifespan=lifespan,
        middleware=_middleware(settings, engine, metrics),
        telemetry=telemetry_of(settings),
        separate_input_output_schemas=False,
        # A path with one slash more is no path here, and no redirect that names a host.
        redirect_slashes=False,
        swagger_ui_parameters={"tryItOutEnabled": True, "defaultModelsExpandDepth": 0},
    )
    app.state.shared = State(settings, engine, metrics)
    for room in _ROOMS:
        app.include_router(room.router)
    app.mount(STATIC, docs_pages.files())
    problems.install(app)
    documentation.install(app, settings)
    return app


def _middleware(settings: Settings, engine: Engine, metrics: Metrics) -> list[Middleware]:
    """What every request passes, the outermost first.

    All that is answered within, refusals and faults too, has an id, is observed and has its
    headers; a browser's preflight, which cannot carry a key, comes before the key; an account of
    memory is opened only for who has one.
    """
    origins = settings.cors_origins
    return [
        Middleware(RequestId),
        Middleware(Observing, metrics=metrics),
        Middleware(SecurityHeaders),
        *([Middleware(CrossOrigin, origins=origins)] if origins else []),
        Middleware(ApiKey, settings=settings),
        Middleware(Stays, admission=engine.admission, work=_work()),
        Middleware(WholeFiles),
        Middleware(Unexpected),
    ]


def _work() -> list[APIRoute]:
    rooms = (attention, softmax, sweeps, comparisons)
    return [route for room in rooms for route in room.router.routes if isinstance(route, APIRoute)]


def _gauges(engine: Engine, metrics: Metrics) -> None:
    admission = engine.admission
    metrics.gauges(
        queue_length=lambda: engine.queue_length,
        places_taken=lambda: admission.waiting,
        in_flight_bytes=lambda: admission.bytes_in_flight,
        device_memory=gpu_memory,
    )


def _operation_id(route: APIRoute) -> str:
    return route.name
