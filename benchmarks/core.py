"""Output and every default diagnostic against F.scaled_dot_product_attention and a notebook.

`python -m benchmarks.core [--rounds N] [--quick]` prints one row a shape. The floor gives the
output only; the service's pass gives output and all diagnostics; no way keeps the weights except
the notebook's.
"""

import argparse
import os
from collections.abc import Callable
from itertools import cycle

import torch
from torch import Tensor

from benchmarks import naive
from benchmarks.compare import ROUNDS, interleave, machine, ratio
from schemas.attention import AttentionRequest
from service.analysis import analyse
from service.attention.workers import Workers
from service.engine.devices import usable_cores
from service.plan import plan
from service.runtime import Runtime

SHAPES = (
    (1, 8, 10, 64),
    (8, 8, 128, 64),
    (4, 8, 512, 64),
    (1, 8, 2048, 64),
    (1, 4, 4096, 64),
    (1, 2, 8192, 64),
)
_INPUT_SETS = 3


def _cycle(ways: list[Callable[[], object]]) -> Callable[[], object]:
    """Take the input sets in turn, so that no way lives off one set's caches."""
    turns = cycle(ways)

    def run() -> object:
        way = next(turns)
        return way()

    return run


def _service(query: Tensor, key: Tensor, value: Tensor, runtime: Runtime) -> Callable[[], object]:
    inputs = {"kind": "tensors", "query": query, "key": key, "value": value}
    request = {"inputs": inputs, "include": ["output", "diagnostics"]}
    planned = plan(AttentionRequest.model_validate(request))
    return lambda: analyse(planned, runtime)


def _with_threads(threads: int, way: Callable[[], object]) -> Callable[[], object]:
    def run() -> object:
        torch.set_num_threads(threads)
        return way()

    return run


def _check(query: Tensor, key: Tensor, value: Tensor, runtime: Runtime) -> None:
    """Right first: against the formula in float64."""
    found = _service(query, key, value, runtime)()
    expected = naive.diagnose(query.double(), key.double(), value.double())
    output = found.tensors["output"].double()  # type: ignore[attr-defined]
    entropy = found.rows["entropy"]  # type: ignore[attr-defined]
    torch.testing.assert_close(output, expected["output"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(entropy, expected["entropy"], rtol=1e-4, atol=1e-5)


def measure(shape: tuple[int, ...], runtime: Runtime, threads: int, rounds: int) -> str:
    """One row of the table."""
    generator = torch.Generator().manual_seed(sum(shape))
    sets = [
        tuple(torch.randn(shape, generator=generator) for _ in range(3)) for _ in range(_INPUT_SETS)
    ]
    _check(*sets[0], runtime)
    ways = {
        "floor": _with_threads(
            threads,
            _cycle(
                [lambda s=s: torch.nn.functional.scaled_dot_product_attention(*s) for s in sets]
            ),
        ),
        "formula": _with_threads(threads, _cycle([lambda s=s: naive.attention(*s) for s in sets])),
        "service": _cycle([_service(*s, runtime) for s in sets]),
    }
    if shape[0] * shape[1] * shape[2] ** 2 <= 2**27:
        ways["naive"] = _with_threads(
            threads, _cycle([lambda s=s: naive.diagnose(*s) for s in sets])
        )
    seconds = interleave(ways, rounds)
    floor = seconds.pop("floor")
    cells = [str(ratio(seconds[name], floor)) if name in seconds else "–" for name in
             ("formula", "naive", "service")]  # fmt: skip
    speedup = str(ratio(seconds["naive"], seconds["service"])) if "naive" in seconds else "–"
    name = "×".join(map(str, shape))
    return f"| {name} | {min(floor) * 1e3:.2f} ms | {' | '.join(cells)} | {speedup} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--quick", action="store_true", help="the three smallest shapes only")
    options = parser.parse_args()
    threads = usable_cores()
    runtime = Runtime(torch.device("cpu"), Workers(threads))
    print(f"{machine()}, {threads} threads, float32, {options.rounds} rounds, load "
          f"{os.getloadavg()[0]:.1f}")  # fmt: skip
    print("Times over F.scaled_dot_product_attention (output only), median and 90 % interval:\n")
    print("| batch×heads×length×d_k | SDPA | formula | formula + diagnostics | service: output + "
          "all diagnostics | service faster than naive by |")  # fmt: skip
    print("| --- | --- | --- | --- | --- | --- |")
    for shape in SHAPES[:3] if options.quick else SHAPES:
        print(measure(shape, runtime, threads, options.rounds), flush=True)
    runtime.workers.close()


if __name__ == "__main__":
    main()
