"""What computing together gains under load, and that it costs nothing alone.

`python -m benchmarks.batching [--rounds N] [--seconds S] [--write]` starts the service twice, once
with `ATTENTION_LARGEST_BATCH=1`, and lets wrk ask both for the same in turn.
"""

import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from benchmarks.compare import machine, ratio
from benchmarks.results import Row, growing, note, parser
from benchmarks.wrk import load
from tests.server_process import Server, running

_SHAPE = {"kind": "seeded", "heads": 8, "query_length": 10, "key_length": 12, "d_k": 64}
_SMALL = json.dumps({"inputs": _SHAPE, "include": ["output", "diagnostics"]}).encode()
_CONNECTIONS = (1, 8, 32)
_BINARY = "application/x-safetensors"


def row(together: Server, alone: Server, connections: int, rounds: int, seconds: float) -> Row:
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
    return str(connections), f"{shown[0]:.0f}", f"{shown[1]:.0f}", str(gain)


def rows(rounds: int, seconds: float) -> Iterator[Row]:
    """One for each number of connections."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        together = stack.enter_context(running(Path(folder, "together")))
        alone = stack.enter_context(running(Path(folder, "alone"), largest_batch=1))
        for connections in _CONNECTIONS:
            yield row(together, alone, connections, rounds, seconds)


def main() -> None:
    """Print the table."""
    options = parser("batching", str(__doc__), rounds=7)
    options.add_argument("--seconds", type=float, default=3.0)
    asked = options.parse_args()
    table = growing(
        "What computing together gains (`python -m benchmarks.batching`): wrk asks for 8 heads, "
        "10 × 12 of dimension 64, output and diagnostics as safetensors, of a service as it is and "
        "of one with `ATTENTION_LARGEST_BATCH=1` in turn; requests a second, and the median ratio "
        f"of {asked.rounds} rounds.",
        machine(),
        ("connections", "together", "one by one", "gain"),
        rows(asked.rounds, asked.seconds),
    )
    if asked.write:
        note({"batching": table})


if __name__ == "__main__":
    main()
