"""Open Inference Protocol v2: inference."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated

import torch
from fastapi import APIRouter, Header, Request, Response
from torch import Tensor

from schemas.open_inference import InferResponse
from service import answer
from service.api import examples
from service.api.answering import answered
from service.api.codings import answer_coding
from service.api.computing import computed
from service.api.documentation import BINARY, problems, request_body
from service.api.open_inference_models import TAG, model_of, on_model
from service.api.receiving_inference import HEADER_LENGTH, ReceivedInference, received_inference
from service.api.small import small_answer, small_inference
from service.api.state import State, state_of
from service.api.straight import Straight
from service.diagnostics import DIAGNOSTICS
from service.encodings import JSON, OCTETS
from service.engine.engine import Series
from service.engine.model_statistics import Clock
from service.job import Job, job_of
from service.limits import check
from service.report import Analysis
from service.wire.compression import Coding, deflate
from service.wire.open_inference_answer import Written, check_outputs, encode
from service.wire.open_inference_call import Inference, decode
from service.wire.open_inference_models import Model
from service.wire.open_inference_places import told_by

router = APIRouter(prefix="/v2", tags=[TAG], route_class=Straight)


@on_model(
    router,
    "POST",
    "/infer",
    "oip_infer",
    summary="Run the model",
    response_class=Response,
    response_model=None,
    openapi_extra=request_body("InferRequest", examples.INFERENCES, binary=OCTETS),
    responses={
        200: {
            "model": InferResponse,
            "description": "The document; with binary outputs their bytes behind it, and its own "
            f"length, padded with spaces to a multiple of 64, in {HEADER_LENGTH}.",
            "content": {JSON: {}, OCTETS: BINARY},
        },
        **problems(400, 404, 408, 413, 415, 422, 429, 500, 503, 504),
    },
)
async def oip_infer(
    http: Request,
    header_length: Annotated[  # noqa: ARG001 - documented here, read where the body is
        str | None,
        Header(
            alias=HEADER_LENGTH,
            json_schema_extra={"pattern": "^[0-9]{1,18}$"},
            description="Bytes of JSON in front of binary tensors, before any compression.",
        ),
    ] = None,
) -> Response:
    """Tensors in, tensors out, as `tritonclient[http]` sends and reads them: JSON, or a JSON
    document with the bytes of the tensors behind it; gzip and deflate both ways. Without `outputs`
    the answer is `output` alone; the names of all others, and of the parameters, are in the model's
    metadata and config. What a request leaves undefined is NaN (null in JSON).
    """  # noqa: D205 - shown on the docs page
    state, model, clock = state_of(http), model_of(http), Clock()
    with _counted(state, model, clock):
        given = await received_inference(http, state)
        clock.lap()
        inference, job = await given.series.code(
            lambda: _admitted(given, model, state),
            small=small_inference(given.body, given.header_length),
        )
        clock.lap("compute_input")
        given.stay.hold(job.estimate.peak_bytes)
        series = given.series.within(inference.timeout_s)
        analysis = await _computed(http, inference, job, series, clock)
        coding = answer_coding(http.headers)
        written = await series.code(
            lambda: _written(inference, analysis, coding),
            small=coding is None and small_answer(job),
        )
        clock.lap("compute_output")
    return _answered(http, written, coding)


@contextmanager
def _counted(state: State, model: Model, clock: Clock) -> Iterator[None]:
    """Whatever ends in an error, or without its caller, counts as failed."""
    counters = state.statistics.of(model.name)
    try:
        yield
    except BaseException:
        counters.failed(clock.total)
        raise
    counters.succeeded(clock.spent(), batch_size=clock.batch_size)


async def _computed(
    http: Request, inference: Inference, job: Job, series: Series, clock: Clock
) -> Analysis:
    with told_by(inference.places):
        _, timed = await computed(http, job, series)
    clock.computed(timed)
    ((_, analysis),) = timed.result
    return analysis


def _admitted(given: ReceivedInference, model: Model, state: State) -> tuple[Inference, Job]:
    """The inference and its job, once its needs are found to be within bounds."""
    inference = decode(given.body, given.header_length, model, state.settings)
    with told_by(inference.places):
        some_json = not all(output.binary for output in inference.outputs)
        accept = JSON if some_json else OCTETS
        job = job_of(inference.call, accept=accept, threads=state.engine.threads)
        check_outputs(inference.outputs, job.plans[0][1].answer_dtype)
    check(job.needs, state.settings)
    return inference, job


def _written(inference: Inference, analysis: Analysis, coding: Coding | None) -> Written:
    written = encode(inference, _tensors(inference, analysis))
    if coding is None:
        return written
    return replace(written, content=deflate(written.content, coding))


def _answered(http: Request, written: Written, coding: Coding | None) -> Response:
    headers = {"Vary": "Accept-Encoding"}
    if written.header_length is not None:
        headers[HEADER_LENGTH] = str(written.header_length)
    if coding is not None:
        headers["Content-Encoding"] = coding
    media_type = JSON if written.header_length is None else OCTETS
    return answered(http, written.content, media_type, headers)


def _tensors(inference: Inference, analysis: Analysis) -> dict[str, Tensor]:
    """The outputs in their final shapes."""
    names = [output.name for output in inference.outputs]
    matrices, figures = answer.tensors(analysis), answer.rows(analysis, names)
    found = {}
    for name in names:
        if name in matrices:
            found[name] = matrices[name]
        elif name in figures:
            found[name] = answer.in_dtype(figures[name], torch.float32)
        else:
            found[name] = _left_out(name, analysis)
    return found


def _left_out(name: str, analysis: Analysis) -> Tensor:
    """A figure that this request does not define is NaN, one that it makes trivial is constant."""
    undefined = torch.full_like(analysis.rows["visible_keys"], math.nan, dtype=torch.float32)
    diagnostic = DIAGNOSTICS.get(name)
    if diagnostic is None or diagnostic.softmax_value is None:
        return undefined
    return torch.where(analysis.rows["max_weight"].isnan(), undefined, diagnostic.softmax_value)
