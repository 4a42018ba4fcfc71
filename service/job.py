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
from service.encodings import JSON, SAFETENSORS
from service.estimate import Estimate, estimate, needs, text_bytes
from service.limits import Need
from service.plan import Plan, plan
from service.ranking import rank
from service.report import Analysis
from service.runtime import Runtime
from service.settings import Settings
from service.wire import json_answer, json_call, safetensors_answer, safetensors_call
from service.wire.answers import Answer
from service.wire.calls import Call, Request
from service.wire.validation import blaming


@dataclass(frozen=True, slots=True)
class Job:
    """A validated call, the plan of each group, and what it would cost at most."""

    call: Call[AttentionRequest]
    plans: tuple[tuple[str | None, Plan], ...]
    estimate: Estimate
    accept: str

    @property
    def needs(self) -> list[Need]:
        """What is compared with the limits."""
        return needs((member for _, member in self.plans), self.estimate)


def prepare(
    body: bytearray,
    *,
    encoding: str,
    accept: str,
    request: str | None,
    settings: Settings,
    threads: int,
    include: list[str] | None = None,
) -> Job:
    """Decode, validate, plan, and estimate the cost; `include` replaces what is asked for.

    What it needs is still to be compared with the limits.

    Raises:
        ServiceError: whatever is wrong with the call.
    """
    call = decode(AttentionRequest, body, encoding, request, settings)
    return job_of(call, accept=accept, threads=threads, include=include)


def job_of(
    call: Call[AttentionRequest], *, accept: str, threads: int, include: list[str] | None = None
) -> Job:
    """Plan a call that has been read, and estimate its cost, as `prepare` does.

    Raises:
        Invalid, ShapeMismatch, DtypeMismatch: whatever does not fit together.
    """
    wanted = {} if include is None else {"include": include}
    plans = tuple((n, planned(n, asked.model_copy(update=wanted))) for n, asked in call.requests)
    costs = [
        estimate(member, threads=threads, json=accept == JSON, name=name) for name, member in plans
    ]
    listed = Estimate(0, 0, 0, sum(map(text_bytes, call.ignored)))
    return Job(call, plans, reduce(add, costs, listed), accept)


def decode(
    model: type[Request], body: bytearray, encoding: str, request: str | None, settings: Settings
) -> Call[Request]:
    """Read a call in whatever encoding it came.

    Raises:
        Malformed, Invalid, UnknownEntry, LimitExceeded: whatever is wrong with it.
    """
    if encoding == SAFETENSORS:
        return safetensors_call.decode(model, body, settings, request)
    return json_call.decode(model, body, settings)


def planned(name: str | None, request: AttentionRequest) -> Plan:
    """Plan one group; what is wrong with it is said of it."""
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
