"""Every mechanism, normaliser and second-pass item at N = M = 4096, against the plain pass.

`python -m benchmarks.family [--rounds N] [--length N] [--write]` prints, for diagnostics and output
without weights, the time over that of scaled dot-product with softmax in the same round, and the
peak memory above what the process held before.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.compare import interleave, machine, ratio
from benchmarks.results import Row, growing, note, parser
from schemas.attention import AttentionRequest
from service.analysis import analyse
from service.attention.workers import Workers
from service.engine.devices import usable_cores
from service.mechanisms import MECHANISMS
from service.normalizers import NORMALIZERS
from service.plan import plan
from service.runtime import Runtime

_D_K = 64
_SCORES = ("dot", "general", "concat")
_ITEMS = ("flip_margin", "gradients", "perturbation", "sparsity", "key_share", "jacobian_spectral")
_PLAIN = "scaled_dot_product, softmax"


def requests(length: int) -> dict[str, dict[str, Any]]:
    """What is measured, by name; one head of dimension 64, and a model of that dimension."""
    lengths = {"kind": "seeded", "query_length": length}
    inputs = {**lengths, "d_k": _D_K}
    include = ["output", "diagnostics"]
    found: dict[str, dict[str, Any]] = {}
    for normalizer in NORMALIZERS:
        mechanism = {"kind": "scaled_dot_product", "normalizer": normalizer}
        name = f"scaled_dot_product, {normalizer}"
        found[name] = {"mechanism": mechanism, "inputs": inputs, "include": include}
    for kind in MECHANISMS:
        if kind in ("scaled_dot_product", "multiplicative"):
            continue
        own = {**lengths, "model_dim": _D_K} if kind == "multi_head" else inputs
        heads = {"heads": 1} if kind == "multi_head" else {}
        found[kind] = {"mechanism": {"kind": kind, **heads}, "inputs": own, "include": include}
    for score in _SCORES:
        mechanism = {"kind": "multiplicative", "score": score}
        name = f"multiplicative, {score}"
        found[name] = {"mechanism": mechanism, "inputs": inputs, "include": include}
    for item in _ITEMS:
        found[f"with {item}"] = {"inputs": inputs, "include": [*include, item]}
    return found


def _way(request: dict[str, Any], runtime: Runtime) -> Callable[[], object]:
    planned = plan(AttentionRequest.model_validate(request))
    return lambda: analyse(planned, runtime)


def _resident(line: str) -> float:
    """A figure of /proc/self/status in MiB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(rf"^{line}:\s+(\d+) kB", status, flags=re.MULTILINE)
    return int(found[1]) / 1024 if found else float("nan")


def _peak_mib(way: Callable[[], object]) -> float:
    """Memory at its highest while it runs, above what was held before."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _resident("VmRSS")
    way()
    return _resident("VmHWM") - before


def rows(length: int, rounds: int, runtime: Runtime) -> Iterator[Row]:
    """Each way's best time, its ratio to the plain pass, and its peak memory."""
    ways = {name: _way(request, runtime) for name, request in requests(length).items()}
    ways[_PLAIN]()
    for name, way in ways.items():
        peak = _peak_mib(way)
        seconds = interleave({name: way, "": ways[_PLAIN]}, rounds)
        times = ratio(seconds[name], seconds[""])
        yield name, f"{min(seconds[name]):.2f} s", str(times), f"{peak:.0f} MiB"


def main() -> None:
    """Print the table."""
    options = parser("family", str(__doc__), rounds=3)
    options.add_argument("--length", type=int, default=4096)
    asked = options.parse_args()
    threads = usable_cores()
    runtime = Runtime(torch.device("cpu"), Workers(threads))
    table = growing(
        f"The rest of the family at {asked.length:,} queries and keys, one head of dimension "
        f"{_D_K} (hidden dimension {_D_K} for additive and concat), output and diagnostics without "
        f"weights: the best time of {asked.rounds} rounds, their median ratio to scaled "
        "dot-product with softmax, and by how much the process grew "
        "(`python -m benchmarks.family`). The weights alone would be 64 MiB, the (query, key, "
        "hidden) intermediate of additive scores 4 GiB.",
        f"{machine()}, {threads} threads, {runtime.pass_name} pass",
        ("what", "time", "over scaled_dot_product", "peak memory"),
        rows(asked.length, asked.rounds, runtime),
    )
    runtime.workers.close()
    if asked.write:
        note({"family": table})


if __name__ == "__main__":
    main()
