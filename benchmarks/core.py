"""Output and every default diagnostic against F.scaled_dot_product_attention and a notebook.

`python -m benchmarks.core [--rounds N] [--quick] [--write]` prints, as times over SDPA, which gives
the output only: one row a shape by both passes, one row for each mask, dtype and matrix at one
shape; then what hiding half of long rows leaves, and the memory that the longest needs. No way
keeps the weights but the notebook's, and where it is said.
"""

import math
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import chain, cycle
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from benchmarks import naive
from benchmarks.compare import ROUNDS, interleave, machine, ratio
from benchmarks.results import Row, growing, note, parser
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
_WAYS = ("formula", "naive", "eager", "native")
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


def rows(
    shapes: tuple[tuple[int, ...], ...], runtime: Runtime, threads: int, rounds: int
) -> Iterator[Row]:
    """The rows of the shapes, and the geometric means of the large ones."""
    found = []
    for shape in shapes:
        cells = measure(shape, runtime, threads, rounds)
        if shape != SMALL:
            found.append(cells)
        shown = (str(cells.get(way, "–")) for way in _WAYS)
        yield (_named(shape), f"{cells['floor']:.2f} ms", *shown)
    means = (_mean([cells[way].median for cells in found if way in cells]) for way in _WAYS)
    yield ("geometric mean, without the first", "", *means)


def _named(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


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


def option_rows(
    shape: tuple[int, ...], runtime: Runtime, threads: int, rounds: int
) -> Iterator[Row]:
    """Each option's time over SDPA, which does without it; and the formula with its weights."""
    sets = _sets(shape)

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
        yield name, str(ratio(times, floor))


def hidden(shape: tuple[int, ...], runtime: Runtime, rounds: int) -> Iterator[Row]:
    """What is left of the time where whole blocks of keys are hidden."""
    sets, masks = _sets(shape), _ranges(shape[2])
    ways = {
        name: _cycle([_service(s, runtime, **asked) for s in sets])
        for name, asked in {"all keys": {}, **masks}.items()
    }
    seconds = interleave(ways, rounds)
    for name in masks:
        left = ratio(seconds[name], seconds["all keys"])
        yield f"{_named(shape)}, {name}", f"{left} of the time without"


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
    return f"{took:.2f} s, {peak:.0f} MiB beside the inputs"


def _alone(length: int) -> Row:
    """In a process of its own: what this one has freed would be taken again, and not be seen."""
    command = [sys.executable, "-m", "benchmarks.core", "--longest", str(length)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return f"{length:,} × {length:,}, one head", done.stdout.strip()


def main() -> None:
    """Print the tables."""
    options_of = parser("core", str(__doc__), rounds=ROUNDS)
    options_of.add_argument("--quick", action="store_true", help="the three smallest shapes only")
    options_of.add_argument("--longest", type=int, help="only the memory at so many keys")
    asked = options_of.parse_args()
    threads = usable_cores()
    runtime = Runtime(torch.device("cpu"), Workers(threads))
    if asked.longest is not None:
        longest(runtime, 64)
        print(longest(runtime, asked.longest))
        runtime.workers.close()
        return
    found, rounds = library.available(), asked.rounds
    place = (
        f"{machine()}, {threads} threads, native pass: {found.instructions if found else 'absent'}"
    )
    spread = f"median of {rounds} interleaved rounds and its 90 % interval"
    shapes, at = ((SMALL, *SHAPES), OPTIONS_AT)
    if asked.quick:
        shapes, at = shapes[:3], SHAPES[0]
    tables = {
        "core": growing(
            "Output and every default diagnostic in float32, as times over "
            "`F.scaled_dot_product_attention`, which gives the output only: "
            f"{spread} (`python -m benchmarks.core`).",
            place,
            (
                "batch×heads×N×d_k",
                "SDPA",
                "formula",
                "formula + diagnostics",
                "eager pass",
                "native",
            ),
            rows(shapes, runtime, threads, rounds),
        ),
        "core, options": growing(
            f"The {runtime.pass_name} pass at {_named(at)} with what a request may ask for beside, "
            "over the same SDPA, which does without it.",
            place,
            ("with", "times over SDPA without it"),
            option_rows(at, runtime, threads, rounds),
        ),
    }
    if not asked.quick:
        tables["core, long"] = growing(
            "Long rows: what is hidden is not computed, and no matrix of the weights is held.",
            place,
            ("rows", "measured"),
            chain(hidden(HIDDEN_AT, runtime, rounds), map(_alone, (2048, _LONGEST))),
        )
    runtime.workers.close()
    if asked.write:
        note(tables)


if __name__ == "__main__":
    main()
