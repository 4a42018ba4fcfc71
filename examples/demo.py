"""Starts the service, posts the attention of a real model, prints which heads are saturated.

`python -m examples.demo` (or `make demo`) ends by itself.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from examples.data import FILE

_SIGNS = {"saturated": "SATURATED", "sharp": "sharp", "healthy": "·", "diffuse": "diffuse"}
_WORST = 10


@contextmanager
def service() -> Iterator[str]:
    """A service on a free port, for as long as the block runs."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    environment = {**os.environ, "ATTENTION_PORT": str(port), "ATTENTION_LOG_LEVEL": "warning"}
    environment["ATTENTION_DRAIN_DELAY_S"] = "0"  # nobody else sends work here
    process = subprocess.Popen([sys.executable, "-m", "service"], env=environment)
    try:
        _wait(address, process)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait(address: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        if process.poll() is not None:
            raise SystemExit("the service ended before it was ready")
        try:
            if httpx.get(f"{address}/health/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise SystemExit("the service was not ready within a minute")


def analyse(address: str, file: Path) -> dict[str, Any]:
    """Post a safetensors file as it lies; stored results in it are ignored."""
    request = {"include": ["diagnostics"], "ignore_unknown": True}
    answer = httpx.post(
        f"{address}/v1/attention",
        params={"request": json.dumps(request)},
        content=file.read_bytes(),
        headers={"Content-Type": "application/x-safetensors"},
        timeout=60,
    )
    answer.raise_for_status()
    found: dict[str, Any] = answer.json()
    return found


def table(answer: dict[str, Any]) -> str:
    """Layers × heads: each head's level, from the ranking."""
    levels = {(head["group"], head["head"]): head["level"] for head in answer["ranking"]}
    groups = [group["name"] for group in answer["groups"]]
    heads = sorted({head for _, head in levels})
    width = max(len(sign) for sign in _SIGNS.values()) + 1
    lines = ["".ljust(10) + "".join(f"head {head}".ljust(width) for head in heads)]
    for group in groups:
        signs = [_SIGNS.get(levels[group, head], "–").ljust(width) for head in heads]
        lines.append(group.ljust(10) + "".join(signs))
    return "\n".join(line.rstrip() for line in lines)


def ranking(answer: dict[str, Any], most: int = _WORST) -> str:
    """The worst heads with the numbers that say why."""
    lines = ["group     head  level      entropy  max weight  Jacobian trace"]
    lines += [
        f"{head['group']:<10}{head['head']:<6}{head['level']:<11}{head['entropy']:<9.4f}"
        f"{head['max_weight']:<12.4f}{head['jacobian_trace']:.4f}"
        for head in answer["ranking"][:most]
    ]
    return "\n".join(lines)


def main() -> None:
    """Run the demonstration."""
    with service() as address:
        print(f"POST {address}/v1/attention  ({FILE.name}, {FILE.stat().st_size:,} bytes)\n")
        answer = analyse(address, FILE)
    print("All layers and heads of all-MiniLM-L6-v2 on two sentences (· is healthy):\n")
    print(table(answer))
    print(f"\nThe {_WORST} worst heads, rows pooled over both sentences:\n")
    print(ranking(answer))
    computed = answer["timing_ms"]["compute"]
    print(f"\n{len(answer['ranking'])} heads in {computed:.0f} ms on {answer['device']}.")


if __name__ == "__main__":
    main()
