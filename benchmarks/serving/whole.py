"""A whole binary request of L, alone on its connection, over the same analysis in process."""

import subprocess
import sys

from benchmarks.serving.contenders import ROOT, Contender
from benchmarks.serving.load import lanes
from benchmarks.serving.process import running
from benchmarks.wrk import load


def whole(service: Contender, count: int, seconds: float) -> dict[str, list[float]]:
    """Milliseconds a round: of each way to ask in bytes, and under "inside" of the analysis."""
    asked = [lane for lane in lanes(service, "L") if lane.request.expects == 200]
    found: dict[str, list[float]] = {name: [] for name in ("inside", *(lane.way for lane in asked))}
    inside = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.serving.inside"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert inside.stdin is not None
    assert inside.stdout is not None
    with inside, running(service) as process:
        for number in range(count + 1):
            print(seconds, file=inside.stdin, flush=True)
            spent = {"inside": float(inside.stdout.readline())}
            for lane in asked:
                request = lane.request
                url = f"http://127.0.0.1:{process.port}{request.path}"
                measured = load(
                    url, request.body, connections=1, seconds=seconds, headers=request.headers
                )
                spent[lane.way] = measured.median_ms
            for name, milliseconds in spent.items():
                if number:  # the first round warms both
                    found[name].append(milliseconds)
        inside.stdin.close()
    return found
