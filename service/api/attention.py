"""POST /v1/attention."""

from typing import Annotated

import torch
from fastapi import APIRouter, Query, Request, Response

from schemas.attention import AttentionAnswer, GroupedAnswer
from service.api import examples
from service.api.bodies import read_body, reserved_bytes
from service.api.documentation import problems, request_body
from service.api.mechanism_pages import described_attention
from service.api.negotiation import (
    answer_encoding,
    body_encoding,
    refuse_unknown_parameters,
)
from service.api.request_id import request_id
from service.api.state import State, state_of
from service.engine.devices import resolve
from service.errors import Invalid
from service.job import JSON, SAFETENSORS, Job, prepare, run, write

router = APIRouter(tags=["attention"])

_BINARY = {"schema": {"type": "string", "format": "binary"}}


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
                SAFETENSORS: _BINARY,
            },
        },
        **problems(400, 406, 408, 413, 415, 422, 429, 500, 503, 504),
    },
)
async def analyse_attention(
    http: Request,
    request: Annotated[
        str | None,
        Query(
            description="For a safetensors body posted as it lies: the rest of the request as "
            "JSON. It wins over the file's metadata entry `request`.",
            examples=['{"ignore_unknown": true}'],
        ),
    ] = None,
) -> Response:
    """Answer one call; what the docs page says of it is made from the tables."""
    state = state_of(http)
    refuse_unknown_parameters(http, {"request"})
    encoding, accept = body_encoding(http.headers), answer_encoding(http.headers)
    if request is not None and encoding == JSON:
        raise Invalid(
            "the query parameter request goes with a safetensors body; a JSON body is the request",
            pointer="/request",
        )
    reserved = reserved_bytes(http, encoding, state.settings)
    with state.engine.admission.hold(reserved):
        body = await read_body(http, encoding, state.settings)
        job = await state.engine.code(
            lambda: prepare(
                body,
                encoding=encoding,
                accept=accept,
                request=request,
                settings=state.settings,
                threads=state.engine.threads,
            )
        )
        with state.engine.admission.hold(job.estimate.peak_bytes, own=reserved):
            return await _answer(state, job, request_id(http.scope))


async def _answer(state: State, job: Job, identity: str) -> Response:
    engine = state.engine
    device = resolve(job.call.options.compute.device)
    timed = await engine.compute(lambda checkpoint: run(job, device, engine.workers, checkpoint))
    common = {
        "device": str(device),
        "torch": torch.__version__.partition("+")[0],
        "timing_ms": {"queue": round(timed.queue_ms, 3), "compute": round(timed.compute_ms, 3)},
        "batch_size": 1,
        "request_id": identity,
    }
    content = await engine.code(lambda: write(job, timed.result, common))
    return Response(content, media_type=job.accept)
