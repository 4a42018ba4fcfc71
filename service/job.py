"""One call from its bytes to its answer's bytes: three steps, each run off the event loop."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from operator import add
from typing import Any

from schemas.attention import AttentionRequest
from service import batch
from service.analysis import analyse
from service.answer import part
from service.encodings import JSON, SAFETENSORS
from service.errors import ServiceError
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
from service.wire.pieces import Content
from service.wire.validation import blaming

Analyses = list[tuple[str | None, Analysis]]
"""The analyses of a job, each with the name of its group."""


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


def run(job: Job, runtime: Runtime) -> Analyses:
    """Analyse every group, in order."""
    return [(name, _analyse(name, member, runtime)) for name, member in job.plans]


def key_of(job: Job) -> Hashable:
    """Equal for jobs that can be computed as one; None for one that must be alone."""
    if job.call.grouped:
        return None
    return batch.key_of(job.plans[0][1])


def run_together(jobs: Sequence[Job], runtime: Runtime) -> list[Analyses | ServiceError]:
    """Analyse jobs with an equal key: what `run` gives, or what is wrong with it, for each."""
    if len(jobs) == 1:
        return [run(jobs[0], runtime)]
    found = batch.analyse_together([job.plans[0][1] for job in jobs], runtime)
    return [item if isinstance(item, ServiceError) else [(None, item)] for item in found]


def _analyse(name: str | None, member: Plan, runtime: Runtime) -> Analysis:
    with blaming(name):
        return analyse(member, runtime)


def write(job: Job, analyses: Analyses, common: Mapping[str, Any]) -> Content:
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
