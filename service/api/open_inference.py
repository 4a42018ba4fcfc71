"""Open Inference Protocol v2: health, what serves here, and what is on offer."""

from importlib.metadata import version as version_of
from typing import Literal

from fastapi import APIRouter, Request

from schemas.open_inference import (
    IndexedModel,
    IndexRequest,
    RepositoryIndex,
    ServerLive,
    ServerMetadata,
    ServerReady,
)
from service.api import examples
from service.api.bodies import JSON_BODY, read_body
from service.api.codings import refuse_content_coding
from service.api.documentation import problems, request_body
from service.api.open_inference_models import TAG, refuse_unless_ready
from service.api.probing import probe
from service.api.state import state_of
from service.api.stays import stay_of
from service.errors import Invalid, ProtocolViolation, UnsupportedExtension
from service.settings import Settings
from service.wire.documents import parse_request
from service.wire.open_inference_models import MODELS, VERSION
from service.wire.validation import validate

router = APIRouter(prefix="/v2", tags=[TAG])
NAME = "attention-analysis"
EXTENSIONS = ["binary_tensor_data", "model_configuration", "parameters", "statistics"]


@probe(router, "/health/live", summary="Is the process alive?", responses=problems(500))
async def oip_live() -> ServerLive:
    """Answers while the largest permitted job runs."""
    return ServerLive(live=True)


@probe(router, "/health/ready", summary="Does it take work?", responses=problems(500, 503))
async def oip_ready(http: Request) -> ServerReady:
    """503 while warming up, as soon as it is told to stop, and where a computation hangs."""
    refuse_unless_ready(http)
    return ServerReady(ready=True)


@router.get("", summary="What serves here", responses=problems(500))
async def oip_server() -> ServerMetadata:
    """Name, version and the extensions of the protocol."""
    return ServerMetadata(name=NAME, version=version_of(NAME), extensions=EXTENSIONS)


@router.post(
    "/repository/index",
    summary="The models on offer",
    openapi_extra=request_body("IndexRequest", examples.REPOSITORY_INDEX),
    responses=problems(400, 408, 413, 415, 429, 500, 503),
)
async def oip_index(http: Request) -> RepositoryIndex:
    """Every mechanism is a model. The body may be empty."""
    state = state_of(http)
    refuse_content_coding(http.headers)
    stay = stay_of(http)
    body = await read_body(http, JSON_BODY, state.settings, stay)
    asked = IndexRequest()
    if body:
        stay.take_place()
        series = state.engine.series(stay)
        asked = await series.code(lambda: _index_request(body, state.settings))
    reason = state.engine.unready_reason()
    if asked.ready and reason is not None:
        return RepositoryIndex([])
    return RepositoryIndex([_indexed(name, reason) for name in MODELS])


def _indexed(name: str, reason: str | None) -> IndexedModel:
    condition: Literal["READY", "UNAVAILABLE"] = "READY" if reason is None else "UNAVAILABLE"
    return IndexedModel(name=name, version=VERSION, state=condition, reason=reason or "")


def _index_request(body: bytearray, settings: Settings) -> IndexRequest:
    try:
        return validate(IndexRequest, parse_request(body, settings), settings)
    except Invalid as error:
        raise ProtocolViolation(error.detail, faults=error.faults) from None


@router.api_route("/repository/models/{path:path}", methods=["POST"], include_in_schema=False)
@router.api_route(
    "/systemsharedmemory/{path:path}", methods=["GET", "POST"], include_in_schema=False
)
@router.api_route("/cudasharedmemory/{path:path}", methods=["GET", "POST"], include_in_schema=False)
@router.api_route(
    "/models/{path:path}/trace/setting", methods=["GET", "POST"], include_in_schema=False
)
@router.api_route("/trace/setting", methods=["GET", "POST"], include_in_schema=False)
@router.api_route("/logging", methods=["GET", "POST"], include_in_schema=False)
async def oip_unsupported() -> None:
    """What else Triton's clients can ask for."""
    raise UnsupportedExtension(
        f"this extension of the protocol is not served here; served are {', '.join(EXTENSIONS)}"
    )
