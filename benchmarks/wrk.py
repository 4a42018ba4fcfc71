"""Load from `wrk` (Debian's package), which measures the server and not itself."""

import json
import math
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

_SCRIPT = """
wrk.method = "POST"
local file = io.open(%s, "rb")
wrk.body = file:read("*a")
"""


@dataclass(frozen=True, slots=True)
class Measured:
    """Answers a second, how many were none or not of 2xx, and the median latency."""

    per_second: float
    failed: int
    median_ms: float


def load(
    url: str,
    body: bytes,
    *,
    connections: int,
    seconds: float,
    content_type: str = "application/json",
    accept: str = "application/json",
    headers: Mapping[str, str] = MappingProxyType({}),
) -> Measured:
    """Post the same body over and over on so many connections.

    Raises:
        FileNotFoundError: wrk is not installed.
    """
    if shutil.which("wrk") is None:
        message = "wrk is not installed (Debian: apt-get install wrk)"
        raise FileNotFoundError(message)
    with tempfile.TemporaryDirectory() as folder:
        posted, script = Path(folder, "body"), Path(folder, "post.lua")
        posted.write_bytes(body)
        named = {"Content-Type": content_type, "Accept": accept, **headers}
        lines = [f"wrk.headers[{json.dumps(n)}] = {json.dumps(v)}\n" for n, v in named.items()]
        script.write_text(_SCRIPT % json.dumps(str(posted)) + "".join(lines))
        command = ["wrk", "-t1", f"-c{connections}", f"-d{math.ceil(seconds)}s", "--latency"]
        told = subprocess.run(
            [*command, "--timeout", "60s", "-s", str(script), url],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    return Measured(_number(r"Requests/sec:\s+([\d.]+)", told), _failed(told), _median_ms(told))


def _number(pattern: str, told: str) -> float:
    found = re.search(pattern, told)
    return float(found[1]) if found else 0.0


def _failed(told: str) -> int:
    refused = _number(r"Non-2xx or 3xx responses: (\d+)", told)
    errors = re.search(
        r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", told
    )
    return int(refused) + (sum(map(int, errors.groups())) if errors else 0)


def _median_ms(told: str) -> float:
    found = re.search(r"50%\s+([\d.]+)(us|ms|s)", told)
    if found is None:
        return float("nan")
    return float(found[1]) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[found[2]]
