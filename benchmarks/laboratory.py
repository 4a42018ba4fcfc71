"""How long the laboratory's requests take: the default sweep, comparisons, pictures.

`python -m benchmarks.laboratory [--rounds N]` runs each in a fresh process first (the theory's
tables, the first pages of memory), then N times in this one, and prints medians and ranges.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from time import perf_counter

import torch

from benchmarks.compare import machine
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


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks.laboratory")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only")
    given = parser.parse_args()
    torch.set_num_threads(1)
    threads = usable_cores()
    measured = ways(Runtime(torch.device("cpu"), Workers(threads)))
    if given.only is not None:
        print(_seconds(measured[given.only]))
        return
    print(machine(), end="\n\n")
    print("| request | first in a process | then: median | range |\n| --- | --- | --- | --- |")
    for name, work in measured.items():
        cold, warm = _cold(name), sorted(_seconds(work) for _ in range(given.rounds))
        median = statistics.median(warm)
        print(f"| {name} | {cold:.2f} s | {median:.2f} s | {warm[0]:.2f}–{warm[-1]:.2f} s |")


if __name__ == "__main__":
    main()
