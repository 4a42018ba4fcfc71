"""Every decoder with what comes behind it, up to where work would begin."""

import time
import tracemalloc
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice

from schemas.comparisons import ComparisonRequest
from schemas.softmax import SoftmaxRequest
from schemas.sweeps import SweepRequest
from service.encodings import JSON, OCTETS, SAFETENSORS
from service.errors import ServiceError
from service.job import decode, job_of, prepare
from service.laboratory.comparisons import prepare_comparison
from service.laboratory.softmax import prepare_softmax
from service.laboratory.sweeps import grid_need, prepare_sweep
from service.limits import check
from service.settings import Settings
from service.wire.open_inference_answer import check_outputs
from service.wire.open_inference_call import decode as decode_inference
from service.wire.open_inference_models import MODELS
from service.wire.open_inference_places import told_by
from service.wire.safetensors_call import decode_tensors
from tests.proof.originals import COMPARISONS, ESTIMATE, SOFTMAX, SWEEPS, Original

SETTINGS = Settings()
_TOGETHER = 500


@dataclass(slots=True)
class Decoded:
    """How many bodies were read or refused, and with what; what escaped; the costliest ones."""

    outcomes: Counter[str] = field(default_factory=Counter)
    escaped: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    slowest: str = ""
    most_bytes: int = 0
    most: str = ""

    @property
    def bodies(self) -> int:
        """How many there were."""
        return self.outcomes.total()


def prepared(body: Original) -> None:
    """Decode, validate, plan, and compare with the limits, as the route does.

    Raises:
        ServiceError: whatever is wrong with it.
    """
    content = bytearray(body.body)
    if body.path == SOFTMAX:
        asked = (
            decode_tensors(SoftmaxRequest, ("logits",), content, SETTINGS, None)
            if body.encoding == SAFETENSORS
            else decode(SoftmaxRequest, content, JSON, None, SETTINGS).options
        )
        check(prepare_softmax(asked, threads=2, json=True).needs, SETTINGS)
    elif body.path == SWEEPS:
        swept = decode(SweepRequest, content, JSON, None, SETTINGS).options
        check([grid_need(swept)], SETTINGS)
        check(prepare_sweep(swept, threads=2).needs, SETTINGS)
    elif body.encoding == OCTETS:
        model = MODELS[body.path.removeprefix("/v2/models/").partition("/")[0]]
        inference = decode_inference(content, body.length, model, SETTINGS)
        with told_by(inference.places):
            job = job_of(inference.call, accept=JSON, threads=2)
            check_outputs(inference.outputs, job.plans[0][1].answer_dtype)
        check(job.needs, SETTINGS)
    elif body.path == COMPARISONS:
        for _, compared in decode(
            ComparisonRequest, content, body.encoding, None, SETTINGS
        ).requests:
            check(prepare_comparison(compared, threads=2).needs, SETTINGS)
    else:
        job = prepare(
            content,
            encoding=body.encoding,
            accept=JSON,
            request=None,
            settings=SETTINGS,
            threads=2,
        )
        if body.path != ESTIMATE:
            check(job.needs, SETTINGS)


def decoded(bodies: Iterable[Original]) -> Decoded:
    """Read all of them, each once for the time and once for the memory, which tracing slows."""
    found, rest = Decoded(), iter(bodies)
    while some := list(islice(rest, _TOGETHER)):
        for body in some:
            _timed(found, body)
        tracemalloc.start()
        try:
            for body in some:
                _weighed(found, body)
        finally:
            tracemalloc.stop()
    return found


def _timed(found: Decoded, body: Original) -> None:
    began = time.thread_time()
    try:
        prepared(body)
    except ServiceError as error:
        found.outcomes[error.slug] += 1
    except Exception as error:  # noqa: BLE001 - it is what is looked for
        found.outcomes["escaped"] += 1
        found.escaped.append(f"{error!r} of {body.path} {body.encoding} {body.body[:2000]!r}")
    else:
        found.outcomes["read"] += 1
    took = time.thread_time() - began
    if took > found.slowest_s:
        found.slowest_s, found.slowest = took, _described(body)


def _weighed(found: Decoded, body: Original) -> None:
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    with suppress(Exception):  # it has been noted with the time
        prepared(body)
    held = tracemalloc.get_traced_memory()[1] - before
    if held > found.most_bytes:
        found.most_bytes, found.most = held, _described(body)


def _described(body: Original) -> str:
    return f"{len(body.body):,} bytes for {body.path}: {body.body[:200]!r}"
