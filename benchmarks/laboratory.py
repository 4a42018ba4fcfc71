"""How long the laboratory's requests take: the default sweep, comparisons, pictures.

`python -m benchmarks.laboratory [--rounds N] [--write]` runs each in a fresh process first (the
theory's tables, the first pages of memory), then N times in this one, and prints medians and
ranges.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from time import perf_counter

import torch

from benchmarks.compare import machine
from benchmarks.results import Row, growing, note, parser
from examples.data import FILE
from schemas.attention import AttentionRequest
from schemas.comparisons import ComparisonRequest
from schemas.sweeps import SweepRequest
from service import gallery
from service.analysis import analyse
from service.attention.workers import Workers
from service.encodings import PNG, SAFETENSORS
from service.engine.devices import usable_cores
from service.job import decode
from service.laboratory.comparisons import prepare_comparison, run_comparison
from service.laboratory.sweeps import prepare_sweep, run_point
from service.plan import plan
from service.runtime import Runtime
from service.settings import Settings

_TARGET = {"saturated_share_max": 0.1}
_VIEW = gallery.View(None, None, None, PNG)


def ways(runtime: Runtime) -> dict[str, Callable[[], object]]:
    """What is measured, by name."""

    def sweep() -> list[dict[str, object]]:
        prepared = prepare_sweep(SweepRequest(), threads=runtime.workers.threads)
        return [run_point(point, runtime) for point in prepared.points]

    def layers() -> None:
        asked = json.dumps({"ignore_unknown": True, "target": _TARGET})
        body = bytearray(FILE.read_bytes())
        call = decode(ComparisonRequest, body, SAFETENSORS, asked, Settings())
        for name, request in call.requests:
            run_comparison(name, prepare_comparison(request, threads=2), runtime)

    def one(length: int) -> None:
        inputs = {"kind": "seeded", "heads": 8, "query_length": length, "std": 2.0}
        request = ComparisonRequest.model_validate({"inputs": inputs, "target": _TARGET})
        run_comparison(None, prepare_comparison(request, threads=2), runtime)

    def heads() -> bytes:
        inputs = {"kind": "seeded", "heads": 12, "query_length": 128}
        asked = {"inputs": inputs, "include": gallery.INCLUDE}
        found = analyse(plan(AttentionRequest.model_validate(asked)), runtime)
        return gallery.attention([(None, found)], _VIEW)

    return {
        "the default sweep": sweep,
        "the default sweep and its picture": lambda: gallery.sweep(sweep(), _VIEW),
        "six layers of MiniLM, two variants and a recommendation each": layers,
        "8 × 512 × 512 × 64, two variants and a recommendation": lambda: one(512),
        "heat maps of 12 heads, 128 × 128": heads,
    }


def _cold(name: str) -> float:
    """Seconds in a process that has done nothing else, without its start."""
    command = [sys.executable, "-m", "benchmarks.laboratory", "--only", name]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    return float(done.stdout)


def _seconds(work: Callable[[], object]) -> float:
    began = perf_counter()
    work()
    return perf_counter() - began


def rows(measured: dict[str, Callable[[], object]], rounds: int) -> Iterator[Row]:
    """Each request's first time in a process, then median and range in this one."""
    for name, work in measured.items():
        cold, warm = _cold(name), sorted(_seconds(work) for _ in range(rounds))
        median = statistics.median(warm)
        yield name, f"{cold:.2f} s", f"{median:.2f} s", f"{warm[0]:.2f}–{warm[-1]:.2f} s"


def main() -> None:
    """Print the table."""
    options = parser("laboratory", str(__doc__), rounds=5)
    options.add_argument("--only")
    asked = options.parse_args()
    torch.set_num_threads(1)
    threads = usable_cores()
    runtime = Runtime(torch.device("cpu"), Workers(threads))
    measured = ways(runtime)
    if asked.only is not None:
        print(_seconds(measured[asked.only]))
        return
    table = growing(
        "The laboratory (`python -m benchmarks.laboratory`): the first time in a fresh process, "
        "which makes the theory's tables and loads matplotlib, and the median and range of "
        f"{asked.rounds} rounds.",
        f"{machine()}, {threads} threads, {runtime.pass_name} pass",
        ("request", "first in a process", "then: median", "range"),
        rows(measured, asked.rounds),
    )
    if asked.write:
        note({"laboratory": table})


if __name__ == "__main__":
    main()
