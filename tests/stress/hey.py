"""A constant rate of requests from `hey` (Debian's package), whoever answers them how."""

import re
import shutil
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

_STATUS = re.compile(r"^\s+\[(\d{3})\]\s+(\d+) responses$", re.MULTILINE)
_ERROR = re.compile(r"^\s+\[(\d+)\]\s+(?!\d+ responses)(.*)$", re.MULTILINE)
_SHARE = re.compile(r"^\s+(\d+)% in ([\d.]+) secs$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Told:
    """What came back: answers by status, requests without one, and latencies by percentile."""

    statuses: Counter[int]
    unanswered: int
    milliseconds: dict[int, float]

    def __str__(self) -> str:
        answers = ", ".join(f"{n:,} × {status}" for status, n in sorted(self.statuses.items()))
        return f"{answers}; {self.unanswered} unanswered"


def load(url: str, body: bytes, *, rate: float | None, workers: int, seconds: float) -> Told:
    """Post a body at a constant rate, spread over so many workers with a connection each.

    Without a rate each worker posts again as soon as it is answered.

    Raises:
        FileNotFoundError: hey is not installed.
    """
    if shutil.which("hey") is None:
        message = "hey is not installed (Debian: apt-get install hey)"
        raise FileNotFoundError(message)
    with tempfile.TemporaryDirectory() as folder:
        posted = Path(folder, "body")
        posted.write_bytes(body)
        command = ["hey", "-z", f"{seconds:g}s", "-c", str(workers)]
        command += [] if rate is None else ["-q", f"{rate / workers:.4f}"]
        command += ["-m", "POST", "-D", str(posted), "-T", "application/json", "-t", "60"]
        done = subprocess.run([*command, url], check=True, capture_output=True, text=True)
    return read(done.stdout)


def read(summary: str) -> Told:
    """What hey prints at the end."""
    told, _, errors = summary.partition("Error distribution:")
    return Told(
        Counter({int(status): int(n) for status, n in _STATUS.findall(told)}),
        sum(int(n) for n, _ in _ERROR.findall(errors)),
        {int(share): float(secs) * 1e3 for share, secs in _SHARE.findall(told)},
    )
