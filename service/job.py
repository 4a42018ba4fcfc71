"""One call from its bytes to its answer's bytes: three steps, each run off the event loop."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import reduce
from operator import add
from typing import Any

import torch

from service.analysis import Analysis, Runtime, analyse
from service.answer import part
from service.attention.workers import Workers
from service.estimate import Estimate, check, check_elements, estimate
from service.plan import Plan, plan
from service.ranking import rank
from service.settings import Settings
from service.wire import json_answer, json_call, safetensors_answer, safetensors_call
from service.wire.answers import Answer
from service.wire.calls import Call

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

    call: Call
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
        call = safetensors_call.decode(body, settings, request)
    else:
        call = json_call.decode(body, settings)
    plans = tuple((name, plan(request)) for name, request in call.requests)
    for _, member in plans:
        check_elements(member, settings)
    costs = [estimate(member, threads=threads, json=accept == JSON) for _, member in plans]
    total = reduce(add, costs)
    check(total, settings)
    return Job(call, plans, total, accept)


def run(
    job: Job, device: torch.device, workers: Workers, checkpoint: Callable[[], None]
) -> list[tuple[str | None, Analysis]]:
    """Analyse every group, in order."""
    runtime = Runtime(device, workers, checkpoint)
    return [(name, analyse(member, runtime)) for name, member in job.plans]


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
        said = {"omitted": [*job.plans[0][1].omitted, *job.call.ignored]}
    answer = Answer(parts, {**said, **common})
    if job.accept == SAFETENSORS:
        return safetensors_answer.encode(answer)
    return json_answer.encode(answer, job.call.options.tensor_format)
