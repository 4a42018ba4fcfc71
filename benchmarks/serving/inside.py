"""A process that computes L without any server: a line in, the median of its milliseconds out."""

import statistics
import sys
from time import perf_counter

import torch

from benchmarks.serving.cases import CASES, inputs
from schemas.attention import AttentionRequest
from service.analysis import analyse
from service.attention.workers import Workers
from service.engine.devices import usable_cores
from service.plan import plan
from service.runtime import Runtime


def main() -> None:
    """For as long as lines come, each with the seconds to compute for."""
    torch.set_num_threads(1)
    runtime = Runtime(torch.device("cpu"), Workers(usable_cores()))
    tensors = {name: torch.from_numpy(array) for name, array in inputs(CASES[-1]).items()}
    request = {"inputs": {"kind": "tensors", **tensors}, "include": ["output", "diagnostics"]}
    planned = plan(AttentionRequest.model_validate(request))
    for line in sys.stdin:
        spent: list[float] = []
        until = perf_counter() + float(line)
        while perf_counter() < until:
            began = perf_counter()
            analyse(planned, runtime)
            spent.append(perf_counter() - began)
        print(statistics.median(spent) * 1e3, flush=True)
    runtime.workers.close()


if __name__ == "__main__":
    main()
