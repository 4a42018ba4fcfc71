"""One call from its bytes to its answer's bytes: three steps, each run off the event loop."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import reduce
from operator import add
from typing import Any

import torch

from schemas.attention import AttentionRequest
from service.analysis import analyse
from service.answer import part
from service.attention.workers import Workers
from service.estimate import Estimate, check, check_elements, estimate, text_bytes
from service.plan import Plan, plan
from service.ranking import rank
from service.report import Analysis
from service.runtime import Runtime
from service.settings import Settings
from service.wire import json_answer, json_call, safetensors_answer, safetensors_call
from service.wire.answers import Answer
from service.wire.calls import Call
from service.wire.validation import blaming

JSON = "application/json"
SAFETENSORS = "application/x-safetensors"
ENCODINGS = {
    JSON: "Tensors as nested lists, flat data with a shape, or base64; NaN and infinity are null.",
    SAFETENSORS: "Tensors by name in a safetensors file, the rest as JSON in its metadata "
    "(request, response); exact, and the only way in for large tensors and for groups.",
}


@dataclass(frozen=True, slots=True)
class Job:
    """A validated call, the plan of each group, and what it would cost at most."""

    call: Call[AttentionRequest]
    plans: tuple[tuple[str | None, Plan], ...]
    estimate: Estimate
    accept: str


def prepare(
    body: bytearray,
    *,
    encoding: str,
    accept: str,
    request: str | None,
    settings: Settings,
    threads: int,
) -> Job:
    """Decode, validate, plan, and compare the estimated cost with the limits.

    Raises:
        ServiceError: whatever is wrong with the call.
    """
    if encoding == SAFETENSORS:
        call = safetensors_call.decode(AttentionRequest, body, settings, request)
    else:
        call = json_call.decode(AttentionRequest, body, settings)
    plans = tuple((name, _plan(name, request)) for name, request in call.requests)
    for _, member in plans:
        check_elements(member, settings)
    costs = [
        estimate(member, threads=threads, json=accept == JSON, name=name) for name, member in plans
    ]
    listed = Estimate(0, 0, 0, sum(map(text_bytes, call.ignored)))
    total = reduce(add, costs, listed)
    check(total, settings)
    return Job(call, plans, total, accept)


def _plan(name: str | None, request: AttentionRequest) -> Plan:
    with blaming(name):
        return plan(request)


def run(
    job: Job, device: torch.device, workers: Workers, checkpoint: Callable[[], None]
) -> list[tuple[str | None, Analysis]]:
    """Analyse every group, in order."""
    runtime = Runtime(device, workers, checkpoint)
    return [(name, _analyse(name, member, runtime)) for name, member in job.plans]


def _analyse(name: str | None, member: Plan, runtime: Runtime) -> Analysis:
    with blaming(name):
        return analyse(member, runtime)


def write(
    job: Job, analyses: list[tuple[str | None, Analysis]], common: Mapping[str, Any]
) -> bytes:
    """The answer's bytes in the accepted encoding."""
    parts = [part(name, analysis) for name, analysis in analyses]
    said: dict[str, Any] = {}
    if job.call.grouped:
        named = {name: analysis for name, analysis in analyses if name is not None}
        said = {
            "ranking": [asdict(head) for head in rank(named)],
            "omitted": list(job.call.ignored),
        }
    elif job.call.ignored:
        said = {"omitted": [*job.plans[0][1].include.omitted, *job.call.ignored]}
    answer = Answer(parts, {**said, **common})
    if job.accept == SAFETENSORS:
        return safetensors_answer.encode(answer)
    return json_answer.encode(answer, job.call.options.tensor_format)
