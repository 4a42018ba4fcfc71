"""POST /v1/softmax."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from schemas.softmax import SoftmaxAnswer, SoftmaxRequest
from service.api import examples
from service.api.answering import answered
from service.api.computing import GIVEN
from service.api.documentation import BINARY, problems, request_body
from service.api.negotiation import answer_encoding, refuse_unknown_parameters
from service.api.observing import note_timing
from service.api.receiving import Received, common, received, unless_gone
from service.api.state import State, state_of
from service.encodings import JSON, SAFETENSORS
from service.engine.devices import resolve
from service.engine.waiting import Work
from service.laboratory.softmax import SoftmaxJob, prepare_softmax, run_softmax
from service.limits import check
from service.wire import json_answer, json_call, safetensors_answer, safetensors_call
from service.wire.answers import Answer
from service.wire.pieces import Content

router = APIRouter(tags=["laboratory"])
OFFERED = (JSON, SAFETENSORS)


@router.post(
    "/v1/softmax",
    summary="Softmax under the lens",
    response_class=Response,
    response_model=None,
    openapi_extra=request_body(
        "SoftmaxRequest", examples.SOFTMAX, binary=SAFETENSORS, required=True
    ),
    responses={
        200: {
            "model": SoftmaxAnswer,
            "description": "Weights, every figure of each row, and the Jacobian where asked for.",
            "content": {JSON: {}, SAFETENSORS: BINARY},
        },
        **problems(400, 406, 408, 413, 415, 422, 429, 500, 503, 504),
    },
)
async def analyse_softmax(
    http: Request,
    request: Annotated[
        str | None,
        Query(description="For a safetensors body (an entry `logits`): the rest as JSON."),
    ] = None,
) -> Response:
    """Logits in, weights out, and what softmax makes of them: entropy, max weight, how much
    gradient passes each row, the verdict, and the Jacobian diag(p) − p pᵀ itself for up to 256
    keys.
    """  # noqa: D205 - shown on the docs page
    state = state_of(http)
    refuse_unknown_parameters(http, {"request"})
    accept = answer_encoding(http.headers, OFFERED)
    given = await received(http, request=request)
    series = given.series
    job = await series.code(lambda: _prepare(given, accept, request, state))
    given.stay.hold(job.estimate.peak_bytes)
    work = Work.alone(lambda runtime: run_softmax(job, runtime), GIVEN)
    timed = await unless_gone(http, series.compute(work))
    note_timing(http.scope, timed)
    answer = Answer([timed.result], common(http, resolve("auto"), timed))
    content = await series.code(lambda: _written(answer, job, accept))
    return answered(http, content, accept)


def _prepare(given: Received, accept: str, request: str | None, state: State) -> SoftmaxJob:
    settings = state.settings
    if given.encoding == SAFETENSORS:
        asked = safetensors_call.decode_tensors(
            SoftmaxRequest, ("logits",), given.body, settings, request
        )
    else:
        asked = json_call.decode(SoftmaxRequest, given.body, settings).options
    job = prepare_softmax(asked, threads=state.engine.threads, json=accept == JSON)
    check(job.needs, settings)
    return job


def _written(answer: Answer, job: SoftmaxJob, accept: str) -> Content:
    if accept == SAFETENSORS:
        return safetensors_answer.encode(answer)
    return json_answer.encode(answer, job.request.tensor_format)
