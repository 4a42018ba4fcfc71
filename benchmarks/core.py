"""Output and every default diagnostic against F.scaled_dot_product_attention and a notebook.

`python -m benchmarks.core [--rounds N] [--quick]` prints, as times over SDPA, which gives the
output only: one row a shape by both passes, one row for each mask, dtype and matrix at one shape,
what hiding half of long rows leaves, and the memory that the longest needs. No way keeps the
weights but the notebook's, and where it is said.
"""

import argparse
import math
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from itertools import cycle
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from benchmarks import naive
from benchmarks.compare import ROUNDS, interleave, machine, ratio
from schemas.attention import AttentionRequest
from service.analysis import analyse
from service.attention.native import library
from service.attention.workers import Workers
from service.engine.devices import usable_cores
from service.plan import plan
from service.runtime import Runtime

SMALL = (1, 8, 10, 64)
SHAPES = (
    (8, 8, 128, 64),
    (4, 8, 512, 64),
    (1, 8, 2048, 64),
    (1, 4, 4096, 64),
    (1, 2, 8192, 64),
)
OPTIONS_AT = (1, 8, 2048, 64)
HIDDEN_AT = (1, 2, 8192, 64)
_LONGEST = 32_768
_INPUT_SETS = 3
_SIDES = ("left", "right")
_INCLUDE = ["output", "diagnostics"]
Tensors = tuple[Tensor, ...]


def _cycle(ways: list[Callable[[], object]]) -> Callable[[], object]:
    """Take the input sets in turn, so that no way lives off one set's caches."""
    turns = cycle(ways)

    def run() -> object:
        way = next(turns)
        return way()

    return run


def _sets(shape: tuple[int, ...]) -> list[Tensors]:
    generator = torch.Generator().manual_seed(sum(shape))
    return [
        tuple(torch.randn(shape, generator=generator) for _ in range(3)) for _ in range(_INPUT_SETS)
    ]


def _service(tensors: Tensors, runtime: Runtime, **asked: Any) -> Callable[[], object]:
    query, key, value = tensors
    inputs = {"kind": "tensors", "query": query, "key": key, "value": value}
    request = {"inputs": inputs, "include": _INCLUDE, **asked}
    planned = plan(AttentionRequest.model_validate(request))
    return lambda: analyse(planned, runtime)


def _with_threads(threads: int, way: Callable[[], object]) -> Callable[[], object]:
    def run() -> object:
        torch.set_num_threads(threads)
        return way()

    return run


def _sdpa(sets: list[Tensors], threads: int) -> Callable[[], object]:
    product = torch.nn.functional.scaled_dot_product_attention
    return _with_threads(threads, _cycle([lambda s=s: product(*s) for s in sets]))


def _check(tensors: Tensors, runtime: Runtime) -> None:
    """Right first: against the formula in float64."""
    found = _service(tensors, runtime)()
    expected = naive.diagnose(*(tensor.double() for tensor in tensors))
    output = found.tensors["output"].double()  # type: ignore[attr-defined]
    entropy = found.rows["entropy"]  # type: ignore[attr-defined]
    torch.testing.assert_close(output, expected["output"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(entropy, expected["entropy"], rtol=1e-4, atol=1e-5)


def passes(runtime: Runtime) -> dict[str, Runtime]:
    """The runtime with each pass that there is."""
    eager = Runtime(runtime.device, runtime.workers, native=None)
    return {"native": runtime, "eager": eager} if runtime.native else {"eager": eager}


def measure(shape: tuple[int, ...], runtime: Runtime, threads: int, rounds: int) -> dict[str, Any]:
    """Cells of one row: the floor in milliseconds, and ratios to it by name."""
    sets, runtimes = _sets(shape), passes(runtime)
    for each in runtimes.values():
        _check(sets[0], each)
    ways = {
        "floor": _sdpa(sets, threads),
        "formula": _with_threads(threads, _cycle([lambda s=s: naive.attention(*s) for s in sets])),
        **{name: _cycle([_service(s, way) for s in sets]) for name, way in runtimes.items()},
    }
    if math.prod(shape[:2]) * shape[2] ** 2 <= 2**27:
        ways["naive"] = _with_threads(
            threads, _cycle([lambda s=s: naive.diagnose(*s) for s in sets])
        )
    seconds = interleave(ways, rounds)
    floor = seconds.pop("floor")
    return {"floor": min(floor) * 1e3, **{name: ratio(t, floor) for name, t in seconds.items()}}


def table(
    shapes: tuple[tuple[int, ...], ...], runtime: Runtime, threads: int, rounds: int
) -> list[str]:
    """The rows of the shapes, and the geometric means of the large ones."""
    lines, found = [], []
    for shape in shapes:
        cells = measure(shape, runtime, threads, rounds)
        if shape != SMALL:
            found.append(cells)
        name = "×".join(map(str, shape))
        shown = " | ".join(
            str(cells.get(way, "–")) for way in ("formula", "naive", "eager", "native")
        )
        lines.append(f"| {name} | {cells['floor']:.2f} ms | {shown} |")
        print(lines[-1], flush=True)
    means = " | ".join(
        _mean([cells[way].median for cells in found if way in cells])
        for way in ("formula", "naive", "eager", "native")
    )
    lines.append(f"| geometric mean, without the first | | {means} |")
    print(lines[-1], flush=True)
    return lines


def _mean(medians: list[float]) -> str:
    return f"{statistics.geometric_mean(medians):.2f}" if medians else "–"


def _ranges(length: int) -> dict[str, dict[str, Any]]:
    """Masks that leave half of the keys, in whole ranges."""
    return {
        "causal": {"mask": {"causal": "upper_left"}},
        "window of half the keys": {"mask": {"window": dict.fromkeys(_SIDES, length // 4)}},
    }


def options(shape: tuple[int, ...]) -> Mapping[str, dict[str, Any]]:
    """What a request may ask for beside, by name; the dtype is cast before it is measured."""
    batch, _, length, _ = shape
    generator = torch.Generator().manual_seed(1)
    pairs = torch.rand(length, length, generator=generator)
    return {
        "output alone": {"include": ["output"]},
        **_ranges(length),
        "key_lengths": {"mask": {"key_lengths": torch.full((batch,), length - 5)}},
        "allowed": {"mask": {"allowed": pairs > 0.1}},
        "bias": {"mask": {"bias": pairs}},
        "softcap": {"mechanism": {"softcap": 30.0}},
        "weights too": {"include": [*_INCLUDE, "weights"]},
        "row_diagnostics too": {"include": [*_INCLUDE, "row_diagnostics"]},
        "key_share and sparsity too": {"include": [*_INCLUDE, "key_share", "sparsity"]},
        "bfloat16": {"compute": {"dtype": "bfloat16"}},
        "float64": {"compute": {"dtype": "float64"}},
    }


def option_rows(shape: tuple[int, ...], runtime: Runtime, threads: int, rounds: int) -> list[str]:
    """Each option's time over SDPA, which does without it; and the formula with its weights."""
    sets, lines = _sets(shape), []

    def kept(tensors: Tensors) -> Tensor:
        return naive.attention(*tensors)[1].clone()

    ways = {
        "floor": _sdpa(sets, threads),
        "the formula, its weights copied": _with_threads(
            threads, _cycle([lambda s=s: kept(s) for s in sets])
        ),
        "nothing else": _cycle([_service(s, runtime) for s in sets]),
    }
    for name, asked in options(shape).items():
        cast = getattr(torch, asked.get("compute", {}).get("dtype", "float32"))
        given = [tuple(t.to(cast) for t in tensors) for tensors in sets]
        ways[name] = _cycle([_service(s, runtime, **asked) for s in given])
    seconds = interleave(ways, rounds)
    floor = seconds.pop("floor")
    for name, times in seconds.items():
        lines.append(f"| {name} | {ratio(times, floor)} |")
        print(lines[-1], flush=True)
    return lines


def hidden(shape: tuple[int, ...], runtime: Runtime, rounds: int) -> str:
    """What is left of the time where whole blocks of keys are hidden."""
    sets, masks = _sets(shape), _ranges(shape[2])
    ways = {
        name: _cycle([_service(s, runtime, **asked) for s in sets])
        for name, asked in {"all keys": {}, **masks}.items()
    }
    seconds = interleave(ways, rounds)
    found = (f"{name} {ratio(seconds[name], seconds['all keys'])}" for name in masks)
    return f"Times over all keys at {'×'.join(map(str, shape))}: {', '.join(found)}"


def _resident(line: str) -> float:
    """A figure of /proc/self/status in MiB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(rf"^{line}:\s+(\d+) kB", status, flags=re.MULTILINE)
    return int(found[1]) / 1024 if found else float("nan")


def longest(runtime: Runtime, length: int) -> str:
    """Seconds and memory above what was held, where the weights alone would be gigabytes."""
    query, key, value = (torch.randn(1, 1, length, 64) for _ in range(3))
    way = _service((query, key, value), runtime)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before, start = _resident("VmRSS"), perf_counter()
    way()
    took, peak = perf_counter() - start, _resident("VmHWM") - before
    return f"{length:,} × {length:,}, one head: {took:.1f} s, {peak:.0f} MiB beside the inputs"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--quick", action="store_true", help="the three smallest shapes only")
    parser.add_argument("--longest", type=int, help="only the memory at so many queries and keys")
    asked = parser.parse_args()
    threads = usable_cores()
    runtime = Runtime(torch.device("cpu"), Workers(threads))
    if asked.longest is not None:
        longest(runtime, 64)
        print(longest(runtime, asked.longest))
        runtime.workers.close()
        return
    found = library.available()
    print(
        f"{machine()}, {threads} threads, float32, {asked.rounds} rounds, load "
        f"{os.getloadavg()[0]:.1f}; native pass: {found.instructions if found else 'absent'}"
    )
    print("Times over F.scaled_dot_product_attention (output only), median and 90 % interval:\n")
    print(
        "| batch×heads×length×d_k | SDPA | formula | formula + diagnostics | eager pass | native |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    shapes = (SMALL, *SHAPES)
    table(shapes[:3] if asked.quick else shapes, runtime, threads, asked.rounds)
    shape = SHAPES[0] if asked.quick else OPTIONS_AT
    print(f"\n{'×'.join(map(str, shape))}, {runtime.pass_name} pass, output and all diagnostics:\n")
    print("| with | times over SDPA without it |\n| --- | --- |")
    option_rows(shape, runtime, threads, asked.rounds)
    if not asked.quick:
        print("\n" + hidden(HIDDEN_AT, runtime, asked.rounds) + "\n", flush=True)
    runtime.workers.close()
    for length in () if asked.quick else (2048, _LONGEST):
        # In a process of its own: what this one has freed would be taken again, and not be seen.
        command = [sys.executable, "-m", "benchmarks.core", "--longest", str(length)]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
