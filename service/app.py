"""The application: the one place that knows every floor. Nothing happens at import time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from starlette.responses import RedirectResponse

from service.api import (
    about,
    attention,
    comparisons,
    documentation,
    health,
    open_inference,
    open_inference_infer,
    open_inference_models,
    open_inference_statistics,
    problems,
    softmax,
    sweeps,
)
from service.api.request_id import RequestId
from service.api.state import State
from service.api.stays import Stays
from service.api.warming import warmed
from service.engine.engine import Engine
from service.engine.hanging import watch
from service.settings import Settings

_DESCRIPTION = """
Post query, key and value; learn what your attention does and whether it is saturated: how large
the logits are and ought to be, how close to one-hot each row is, how much gradient still passes
the softmax, how far from theory, and what would mend it.

**First**: open `POST /v1/attention`, choose an example and press *Execute*. Large
tensors travel as safetensors: `curl --data-binary @file.safetensors -H 'Content-Type:
application/x-safetensors'`. `GET /v1/catalogue` explains every number.
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
_OPEN_INFERENCE = (
    open_inference_statistics,
    open_inference_infer,
    open_inference_models,
    open_inference,
)


def create_app(settings: Settings | None = None, *, warm_up: bool = False) -> FastAPI:
    """An application with its own settings and engine; threads start with its lifespan.

    Where it warms up, it is ready only after it has answered a request of its own.
    """
    settings = settings or Settings()
    engine = Engine(settings)
    engine.warm = not warm_up

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine.start()
        beside = [asyncio.create_task(watch(engine, settings.hang_after_s))]
        if warm_up:
            # In the background, so that liveness answers meanwhile.
            beside.append(asyncio.create_task(warmed(app, engine)))
        try:
            yield
        finally:
            for task in beside:
                task.cancel()
            engine.stop()

    app = FastAPIOffline(
        title="Attention analysis",
        summary="What is my attention doing, and is it saturated?",
        description=_DESCRIPTION,
        version=version("attention-analysis"),
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        openapi_tags=_TAGS,
        generate_unique_id_function=_operation_id,
        lifespan=lifespan,
        separate_input_output_schemas=False,
        swagger_ui_parameters={"tryItOutEnabled": True, "defaultModelsExpandDepth": 0},
    )
    app.state.shared = State(settings, engine)
    for room in (attention, softmax, sweeps, comparisons, *_OPEN_INFERENCE, about, health):
        app.include_router(room.router)
    app.add_api_route("/", _to_the_docs, include_in_schema=False)
    app.add_middleware(Stays, admission=engine.admission)
    app.add_middleware(RequestId)
    problems.install(app)
    documentation.install(app)
    return app


async def _to_the_docs() -> RedirectResponse:
    return RedirectResponse("/docs")


def _operation_id(route: APIRoute) -> str:
    return route.name
