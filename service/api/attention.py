"""POST /v1/attention."""

from typing import Annotated, Literal

import orjson
from fastapi import APIRouter, Query, Request, Response

from schemas.attention import AttentionAnswer, GroupedAnswer
from schemas.estimates import EstimateAnswer
from service import gallery
from service.api import examples
from service.api.answering import answered
from service.api.computing import computed
from service.api.documentation import BINARY, TEXT, problems, request_body
from service.api.mechanism_pages import described_attention
from service.api.negotiation import answer_encoding, refuse_unknown_parameters
from service.api.receiving import Received, common, received
from service.api.small import small_answer, small_body
from service.api.state import State, state_of
from service.api.straight import Straight
from service.api.viewing import (
    BATCH,
    HEAD,
    THEME,
    Batch,
    Head,
    Theme,
    drawing_bytes,
    drawn,
    view_of,
)
from service.encodings import JSON, PNG, SAFETENSORS, SVG
from service.job import Job, prepare, write
from service.limits import bounded, check, compared
from service.settings import Settings

router = APIRouter(tags=["attention"], route_class=Straight)

OFFERED = (JSON, SAFETENSORS, PNG, SVG)
RequestParameter = Annotated[
    str | None,
    Query(
        description="For a safetensors body posted as it lies: the rest of the request as JSON. It "
        "wins over the file's metadata entry `request`.",
        examples=['{"ignore_unknown": true}'],
    ),
]


@router.post(
    "/v1/attention",
    summary="Run attention and diagnose its saturation",
    description=described_attention(),
    response_class=Response,
    response_model=None,
    openapi_extra=request_body("AttentionRequest", examples.ATTENTION, binary=SAFETENSORS),
    responses={
        200: {
            "model": AttentionAnswer | GroupedAnswer,
            "description": "The analysis; for a file of groups, one for each and a ranking.",
            "content": {
                JSON: {"examples": examples.attention_answers()},
                SAFETENSORS: BINARY,
                PNG: BINARY,
                SVG: TEXT,
            },
        },
        **problems(400, 406, 408, 413, 415, 422, 429, 500, 503, 504),
    },
)
async def analyse_attention(
    http: Request,
    request: RequestParameter = None,
    batch: Batch = None,
    head: Head = None,
    theme: Theme = None,
) -> Response:
    """Answer one call; what the docs page says of it is made from the tables."""
    state = state_of(http)
    refuse_unknown_parameters(http, {"request", BATCH, HEAD, THEME})
    accept = answer_encoding(http.headers, OFFERED)
    view = view_of(http, accept, gallery.View(batch, head, theme, accept))
    given = await received(http, request=request)
    series = given.series
    job = await series.code(
        lambda: _admitted(given, state, accept, request, view),
        small=small_body(given.body, given.encoding, request),
    )
    given.stay.hold(job.estimate.peak_bytes + drawing_bytes(view))
    device, timed = await computed(http, job, series)
    if view is not None:
        return await drawn(http, view, lambda: gallery.attention(timed.result, view), series)
    said = common(http, device, timed)
    content = await series.code(lambda: write(job, timed.result, said), small=small_answer(job))
    return answered(http, content, job.accept)


def _admitted(
    given: Received, state: State, accept: str, request: str | None, view: gallery.View | None
) -> Job:
    """The job, once its needs and its view are found to be within bounds."""
    include = None if view is None else gallery.INCLUDE
    job = _prepared(given, state, accept, request, include=include)
    if view is not None:
        view.check(plan.shape for _, plan in job.plans)
    check(job.needs, state.settings)
    return job


def _prepared(
    given: Received,
    state: State,
    accept: str,
    request: str | None,
    *,
    include: list[str] | None = None,
) -> Job:
    return prepare(
        given.body,
        encoding=given.encoding,
        accept=accept,
        request=request,
        settings=state.settings,
        threads=state.engine.threads,
        include=include,
    )


@router.post(
    "/v1/attention/estimate",
    summary="What a request would cost",
    response_class=Response,
    response_model=None,
    openapi_extra=request_body("AttentionRequest", examples.ESTIMATES, binary=SAFETENSORS),
    responses={
        200: {"model": EstimateAnswer, "description": "Upper bounds, and the limits in force."},
        **problems(400, 406, 408, 413, 415, 422, 429, 500, 503, 504),
    },
)
async def estimate_attention(
    http: Request,
    request: RequestParameter = None,
    accept: Annotated[
        Literal["application/json", "application/x-safetensors"],
        Query(description="The encoding of the answer whose bytes are estimated."),
    ] = "application/json",
) -> Response:
    """The body of POST /v1/attention, weighed and not computed: operations, memory and answer from
    the shapes alone, whether they are admitted, and each need beside its limit. A body that is not
    valid is refused as there.
    """  # noqa: D205 - shown on the docs page
    state = state_of(http)
    refuse_unknown_parameters(http, {"request", "accept"})
    answer_encoding(http.headers, (JSON,))
    given = await received(http, request=request)
    job = await given.series.code(lambda: _prepared(given, state, accept, request))
    return Response(orjson.dumps(_estimated(job, state.settings)), media_type=JSON)


def _estimated(job: Job, settings: Settings) -> dict[str, object]:
    """Whatever is needed, beside what is allowed; integers past 64 bits are written as such."""
    limits = compared(job.needs, settings)
    cost = job.estimate
    return {
        "flops": bounded(cost.flops),
        "peak_bytes": bounded(cost.peak_bytes),
        "answer_bytes": bounded(cost.answer_bytes),
        "admitted": all(limit["needed"] <= limit["allowed"] for limit in limits.values()),
        "limits": limits,
    }
