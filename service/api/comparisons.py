"""POST /v1/comparisons."""

from dataclasses import dataclass
from functools import partial, reduce
from operator import add
from typing import Any

from fastapi import APIRouter, Request, Response

from schemas.comparisons import ComparisonAnswer, ComparisonRequest, GroupedComparisonAnswer
from service import gallery
from service.api import examples
from service.api.answering import answered
from service.api.attention import RequestParameter
from service.api.computing import counted_as
from service.api.documentation import BINARY, TEXT, problems, request_body
from service.api.negotiation import answer_encoding, refuse_unknown_parameters
from service.api.observing import note_timing
from service.api.receiving import Received, common, received, unless_gone
from service.api.state import State, state_of
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
from service.engine.devices import resolve
from service.engine.engine import Series
from service.engine.waiting import Work
from service.estimate import Estimate
from service.job import decode
from service.laboratory.comparisons import Comparison, prepare_comparison, run_comparison
from service.limits import check
from service.runtime import Runtime
from service.wire import json_answer, safetensors_answer
from service.wire.answers import Answer, Part
from service.wire.calls import Call
from service.wire.pieces import Content
from service.wire.validation import blaming

router = APIRouter(tags=["laboratory"])
OFFERED = (JSON, SAFETENSORS, PNG, SVG)


@router.post(
    "/v1/comparisons",
    summary="The same inputs under several mechanisms, and what mends the first",
    response_class=Response,
    response_model=None,
    openapi_extra=request_body("ComparisonRequest", examples.COMPARISONS, binary=SAFETENSORS),
    responses={
        200: {
            "model": ComparisonAnswer | GroupedComparisonAnswer,
            "description": "The variants beside the baseline, and the recommendation; for a file "
            "of groups, a comparison for each.",
            "content": {JSON: {}, SAFETENSORS: BINARY, PNG: BINARY, SVG: TEXT},
        },
        **problems(400, 406, 408, 413, 415, 422, 429, 500, 503, 504),
    },
)
async def compare_attention(
    http: Request,
    request: RequestParameter = None,
    batch: Batch = None,
    head: Head = None,
    theme: Theme = None,
) -> Response:
    """Scales, temperatures, softcaps, QK-norm, normalisers and mechanisms on the same inputs, given
    or seeded: every diagnostic with its change against the first variant, the verdict, and how far
    the output moves.

    With a `target` the answer recommends for the first variant the mildest temperature, softcap and
    QK-clip under which every head reaches it, each found on a grid of 32 values, refined by
    bisection and verified by a final pass, or says that it cannot be reached, and why. What stands
    under `settings` can be posted back. `application/x-safetensors` gives the output and every
    row's figures of each variant as `variants.<index>.…`; `image/png` and `image/svg+xml` draw the
    variants per head.
    """  # noqa: D205 - shown on the docs page
    state = state_of(http)
    refuse_unknown_parameters(http, {"request", BATCH, HEAD, THEME})
    accept = answer_encoding(http.headers, OFFERED)
    view = view_of(http, accept, gallery.View(batch, head, theme, accept))
    given = await received(http, request=request)
    series = given.series
    job = await series.code(lambda: _prepare(given, request, state, accept, view))
    given.stay.hold(job.estimate.peak_bytes + drawing_bytes(view))
    parts, said = await _compared(http, job, series)
    if view is not None:
        draw = partial(gallery.comparison, parts[0].document, view)
        return await drawn(http, view, draw, series)
    answer = Answer(parts, {"omitted": list(job.call.ignored), **said})
    content = await series.code(lambda: _written(answer, accept))
    return answered(http, content, accept)


@dataclass(frozen=True, slots=True)
class _Job:
    call: Call[ComparisonRequest]
    comparisons: tuple[tuple[str | None, Comparison], ...]

    @property
    def estimate(self) -> Estimate:
        """Of all groups, one after the other."""
        return reduce(add, (comparison.estimate for _, comparison in self.comparisons))


def _prepare(
    given: Received, request: str | None, state: State, accept: str, view: gallery.View | None
) -> _Job:
    settings, tensors = state.settings, accept == SAFETENSORS
    call = decode(ComparisonRequest, given.body, given.encoding, request, settings)
    prepared = []
    for name, asked in call.requests:
        with blaming(name):
            member = prepare_comparison(asked, threads=state.engine.threads, tensors=tensors)
            prepared.append((name, member))
    job = _Job(call, tuple(prepared))
    if view is not None:
        shapes = [member.shape for member in prepared[0][1].plans]
        gallery.check_comparison(view, shapes, grouped=call.grouped)
    check((need for _, comparison in prepared for need in comparison.needs), settings)
    check(job.estimate.needs, settings)
    return job


async def _compared(http: Request, job: _Job, series: Series) -> tuple[list[Part], dict[str, Any]]:
    device = resolve(job.call.options.compute.device)

    def compare(runtime: Runtime) -> list[Part]:
        return [_one(name, comparison, runtime) for name, comparison in job.comparisons]

    counted = counted_as(plan for _, comparison in job.comparisons for plan in comparison.plans)
    timed = await unless_gone(http, series.compute(Work.alone(compare, counted), device))
    note_timing(http.scope, timed)
    return timed.result, common(http, device, timed, batch=False)


def _one(name: str | None, comparison: Comparison, runtime: Runtime) -> Part:
    with blaming(name):
        return run_comparison(name, comparison, runtime)


def _written(answer: Answer, accept: str) -> Content:
    if accept == SAFETENSORS:
        return safetensors_answer.encode(answer)
    return json_answer.encode_documents(answer)
