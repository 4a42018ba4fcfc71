"""POST /v1/sweeps: a table, or its rows as they are done."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from schemas.sweeps import SweepAnswer, SweepRequest
from service import gallery
from service.api import examples
from service.api.answering import answered
from service.api.documentation import BINARY, TEXT, problems, request_body
from service.api.negotiation import answer_encoding, refuse_unknown_parameters
from service.api.observing import note_timing
from service.api.problems import problem_of
from service.api.receiving import Received, common, received, unless_gone
from service.api.state import State, state_of
from service.api.viewing import THEME, Theme, drawing_bytes, drawn, view_of
from service.encodings import CSV, JSON, NDJSON, PNG, SAFETENSORS, SVG
from service.engine.computer import Timed
from service.engine.devices import resolve
from service.engine.engine import Series
from service.engine.waiting import Work
from service.errors import ServiceError
from service.laboratory.sweeps import (
    MECHANISM,
    Sweep,
    grid_need,
    names,
    prepare_sweep,
    run_point,
)
from service.laboratory.tables import sweep_csv, sweep_tensors
from service.limits import check
from service.wire import json_answer, json_call, safetensors_answer
from service.wire.answers import Answer, Part
from service.wire.pieces import Content

router = APIRouter(tags=["laboratory"])
OFFERED = (JSON, NDJSON, CSV, SAFETENSORS, PNG, SVG)
Row = dict[str, Any]
_LAST_LINE_S = 1.0


@router.post(
    "/v1/sweeps",
    summary="Why sqrt(d_k): every diagnostic over a grid, beside the theory",
    response_class=Response,
    response_model=None,
    openapi_extra=request_body("SweepRequest", examples.SWEEPS),
    responses={
        200: {
            "model": SweepAnswer,
            "description": "A row for each point of the grid.",
            "content": {
                JSON: {},
                NDJSON: {"schema": {"$ref": "#/components/schemas/SweepLine"}},
                CSV: TEXT,
                SAFETENSORS: BINARY,
                PNG: BINARY,
                SVG: TEXT,
            },
        },
        **problems(400, 406, 408, 413, 415, 422, 429, 500, 503, 504),
    },
)
async def sweep_attention(http: Request, theme: Theme = None) -> Response:
    """Seeded scaled dot-product attention over d_k × scale × key_length: every diagnostic with its
    standard error over the repeats, RMS gradients, the share of saturated rows, and beside them
    what theory predicts at exactly that number of keys. `{}` is the classic table.

    Each point equals `POST /v1/attention` with its seed, shape and scale. As
    `application/x-ndjson` every row comes as soon as it is done, with the progress; `text/csv` is
    for spreadsheets, `application/x-safetensors` gives each column as a tensor, `image/png` and
    `image/svg+xml` draw the curves. Who goes away stops the work.
    """  # noqa: D205 - shown on the docs page
    state = state_of(http)
    refuse_unknown_parameters(http, {THEME})
    accept = answer_encoding(http.headers, OFFERED)
    view = view_of(http, accept, gallery.View(None, None, theme, accept))
    given = await received(http, binary=False)
    sweep = await given.series.code(lambda: _prepare(given, state, view))
    given.stay.hold(sweep.estimate.peak_bytes + drawing_bytes(view))
    running = _Running(http, state, sweep, given.series)
    if accept == NDJSON:
        lines = _lines(http, running, running.rows())
        # The first row comes before the headers: what is wrong still gets a status.
        first = await unless_gone(http, anext(lines))
        return _Stream(_after(first, lines), running.series)
    rows = await unless_gone(http, _all(running.rows()))
    if view is not None:
        return await drawn(http, view, lambda: gallery.sweep(rows, view), running.series)
    return await _table(http, running, rows, accept)


def _prepare(given: Received, state: State, view: gallery.View | None) -> Sweep:
    request = json_call.decode(SweepRequest, given.body, state.settings).options
    check([grid_need(request)], state.settings)
    sweep = prepare_sweep(request, threads=state.engine.threads)
    check(sweep.needs, state.settings)
    if view is not None:
        gallery.check_sweep((p.d_k, p.scale, p.key_length) for p in sweep.points)
    return sweep


@dataclass(slots=True)
class _Running:
    """A sweep under way, and the time its points waited and took."""

    http: Request
    state: State
    sweep: Sweep
    series: Series
    queue_ms: float = 0.0
    compute_ms: float = 0.0

    async def rows(self) -> AsyncIterator[Row]:
        """The points one after the other; between them the device is free for others."""
        for point in self.sweep.points:
            work = Work.alone(partial(run_point, point), MECHANISM)
            timed: Timed[Row] = await self.series.compute(work)
            note_timing(self.http.scope, timed)
            self.queue_ms += timed.queue_ms
            self.compute_ms += timed.compute_ms
            yield timed.result


async def _all(rows: AsyncIterator[Row]) -> list[Row]:
    return [row async for row in rows]


async def _table(http: Request, running: _Running, rows: list[Row], accept: str) -> Response:
    series, request = running.series, running.sweep.request
    if accept == CSV:
        text = await series.code(lambda: sweep_csv(rows, names(request)))
        return answered(http, Content([text.encode()]), f"{CSV}; charset=utf-8")
    document = {
        "rows": rows,
        "total": len(rows),
        "query_length": request.query_length,
        "repeats": request.repeats,
    }
    timed = Timed(None, running.queue_ms, running.compute_ms)
    said = common(http, resolve("auto"), timed, batch=False)

    def write() -> Content:
        tensors = sweep_tensors(rows, names(request)) if accept == SAFETENSORS else {}
        answer = Answer([Part(None, document, tensors, {})], said)
        return (
            safetensors_answer.encode(answer) if tensors else json_answer.encode_documents(answer)
        )

    return answered(http, await series.code(write), accept)


async def _lines(
    http: Request, running: _Running, rows: AsyncIterator[Row]
) -> AsyncIterator[bytes]:
    """A line for each row; the last one tells what went wrong, if anything did."""
    total, done = len(running.sweep.points), 0
    try:
        async for row in rows:
            done += 1
            yield orjson.dumps({"done": done, "total": total, "row": row}) + b"\n"
    except ServiceError as error:
        if not done:
            raise
        told = problem_of(http, error)
        yield orjson.dumps({"done": done, "total": total, "problem": told}) + b"\n"


async def _after(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for line in rest:
        yield line


class _Stream(StreamingResponse):
    """The deadline of the computations is that of the reader, and a moment for the last line."""

    def __init__(self, lines: AsyncIterator[bytes], series: Series) -> None:
        super().__init__(lines, media_type=NDJSON)
        self._series = series

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the lines until the last one, or until nobody reads them."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._series.ticket.left_s + _LAST_LINE_S):
                await super().__call__(scope, receive, send)
