"""What computing together gains under load, and that it costs nothing alone.

`python -m benchmarks.batching [--rounds N] [--seconds S]` starts the service twice, once with
`ATTENTION_LARGEST_BATCH=1`, and lets wrk ask both for the same in turn.
"""

import argparse
import json
import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks.compare import machine, ratio
from benchmarks.wrk import load
from tests.server_process import Server, running

_SHAPE = {"kind": "seeded", "heads": 8, "query_length": 10, "key_length": 12, "d_k": 64}
_SMALL = json.dumps({"inputs": _SHAPE, "include": ["output", "diagnostics"]}).encode()
_CONNECTIONS = (1, 8, 32)
_BINARY = "application/x-safetensors"


def row(together: Server, alone: Server, connections: int, rounds: int, seconds: float) -> str:
    """Requests a second of both, and their ratio, at so many connections."""
    found: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for server, speeds in zip((together, alone), found, strict=True):
            url = f"http://127.0.0.1:{server.port}/v1/attention"
            measured = load(url, _SMALL, connections=connections, seconds=seconds, accept=_BINARY)
            if measured.failed:
                message = f"{measured.failed} requests failed"
                raise RuntimeError(message)
            speeds.append(measured.per_second)
    gain = ratio(*found)
    shown = [sorted(speeds)[len(speeds) // 2] for speeds in found]
    return f"| {connections} | {shown[0]:.0f} | {shown[1]:.0f} | {gain} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0)
    asked = parser.parse_args()
    print(machine())
    print("| connections | together, requests/s | one by one | gain |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        together = stack.enter_context(running(Path(folder, "together")))
        alone = stack.enter_context(running(Path(folder, "alone"), largest_batch=1))
        for connections in _CONNECTIONS:
            print(row(together, alone, connections, asked.rounds, asked.seconds), flush=True)


if __name__ == "__main__":
    main()
