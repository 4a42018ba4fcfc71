"""What random requests hold at their peak, beside what was estimated from their shapes."""

import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from service.attention.workers import Workers
from service.encodings import JSON
from service.errors import ServiceError
from service.estimate import _FIXED_BYTES
from service.job import Job, key_of, prepare, run_together, write
from service.runtime import Runtime
from service.settings import Settings
from tests.memory import peak_of
from tests.proof.drawn import Drawn

SETTINGS = Settings(max_peak_bytes=2**40, max_answer_bytes=2**40)
CPU = torch.device("cpu")
RUNTIMES = {threads: Runtime(CPU, Workers(threads)) for threads in (1, 2)}
LITTLE_BYTES = 2**17
"""In place of the fixed allowance, which hides whatever small requests hold."""
COMMON = {"device": "cpu", "torch": "2.13.0", "batch_size": 32, "request_id": "x" * 128,
          "timing_ms": {"queue": 123456.789, "compute": 123456.789}}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one computation: estimated, measured, and whether every answer was short enough."""

    jobs: int
    estimated_bytes: int
    strict_bytes: int
    peak_bytes: int
    answers_fit: bool

    @property
    def ratio(self) -> float:
        """Estimated over measured, without the fixed allowance."""
        return self.strict_bytes / self.peak_bytes


def job_of(drawn: Drawn) -> Job:
    """Prepared as the route does it."""
    return prepare(
        bytearray(drawn.body),
        encoding=drawn.encoding,
        accept=drawn.accept,
        request=None,
        settings=SETTINGS,
        threads=drawn.threads,
    )


def cost_of(drawn: Sequence[Drawn]) -> Cost:
    """Of requests that are computed as one: what all of them were let in with, against the peak."""
    jobs = [job_of(one) for one in drawn]
    assert len(jobs) == 1 or len({key_of(job) for job in jobs} - {None}) == 1
    most, held, (written, fit) = peak_of(lambda: _answered(jobs, RUNTIMES[drawn[0].threads]))
    read = sum(_read_bytes(one, job) for one, job in zip(drawn, jobs, strict=True))
    estimated = sum(job.estimate.peak_bytes for job in jobs)
    return Cost(
        len(jobs), estimated, estimated - sum(map(_slack, jobs)),
        read + max(most, held + written), fit,
    )  # fmt: skip


def _slack(job: Job) -> int:
    """The allowance of a job, save where theory's tables need it."""
    theory = any("theory" in plan.include for _, plan in job.plans)
    return 0 if theory else _FIXED_BYTES - LITTLE_BYTES


def _read_bytes(drawn: Drawn, job: Job) -> int:
    """Tensors that were made of JSON; those of a file lie in its body, which is held as such."""
    if drawn.encoding != JSON:
        return 0
    ((_, request),) = job.call.requests
    parts = (request.inputs, request.mask, getattr(request.mechanism, "parameters", None))
    values = [value for part in parts if part is not None for value in vars(part).values()]
    return sum(value.nbytes for value in values if isinstance(value, torch.Tensor))


def _answered(jobs: Sequence[Job], runtime: Runtime) -> tuple[int, bool]:
    """The most that writing took, one answer after the other, and whether each is short enough."""
    found = run_together(jobs, runtime)
    most, fit = 0, True
    for job, analyses in zip(jobs, found, strict=True):
        if isinstance(analyses, ServiceError):
            raise analyses
        tracemalloc.start()
        length = len(write(job, analyses, COMMON))
        most = max(most, tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        fit &= length <= job.estimate.answer_bytes
    return most, fit
