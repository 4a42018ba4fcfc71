"""Twenty minutes of everything at once: good, large, wrong and abandoned requests."""

import json
import os
import random
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from statistics import median

from examples.data import FILE
from tests.server_process import Server, running
from tests.stress.figures import Figure
from tests.stress.resident import resident_bytes
from tests.stress.vanishing import leave

_SECONDS = float(os.environ.get("SOAK_S", "1200"))
# Buffers grow to the largest request first; what grows after that would grow for ever. What is in
# flight moves the memory by 40 MiB from second to second: medians over such a share are compared.
_SHARE = 0.15
_SAMPLE_S = 1.0
_MOST_GROWTH = 50 * 2**20
_CALLERS = 6
_JSON, _SAFETENSORS = "application/json", "application/x-safetensors"
_SEEDED = {"kind": "seeded", "heads": 4, "query_length": 64}
_LONG = {"kind": "seeded", "heads": 2, "query_length": 2048}


def _json(document: object, accept: str = _JSON) -> tuple[str, bytes, str, str]:
    return "/v1/attention", json.dumps(document).encode(), _JSON, accept


REQUESTS = {
    "small": _json({}),
    "every figure": _json(
        {
            "inputs": _SEEDED,
            "mechanism": {"kind": "multiplicative", "score": "general"},
            "include": ["row_diagnostics", "key_share", "gradients", "theory", "perturbation"],
        }
    ),
    "additive": _json({"inputs": _SEEDED, "mechanism": {"kind": "additive"}}),
    "heads": _json({"mechanism": {"kind": "multi_head"}}, _SAFETENSORS),
    "large": _json({"inputs": _LONG, "include": ["weights"]}, _SAFETENSORS),
    "picture": _json({"inputs": _SEEDED}, "image/png"),
    "layers": (
        "/v1/attention?request=" + '{"ignore_unknown":true}'.replace('"', "%22"),
        FILE.read_bytes(),
        _SAFETENSORS,
        _JSON,
    ),
    "sweep": (
        "/v1/sweeps",
        b'{"d_k":[16,64],"repeats":2,"include":[]}',
        _JSON,
        "application/x-ndjson",
    ),
    "comparison": ("/v1/comparisons", b'{"inputs":{"kind":"seeded","std":3.0}}', _JSON, _JSON),
    "softmax": ("/v1/softmax", b'{"logits":[[1,2,3]],"jacobian":true}', _JSON, _JSON),
    "not JSON": ("/v1/attention", b'{"inputs"', _JSON, _JSON),
    "not valid": _json({"inputs": {"kind": "seeded", "d_k": -1}}),
    "too large": _json({"inputs": {"kind": "seeded", "query_length": 10**9}}),
}
_EXPECTED = {"not JSON": 400, "not valid": 422, "too large": 413}


def run() -> list[Figure]:
    """The soak, and how the resident memory changed after its first part."""
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder, "log"), log_level="error") as server,
    ):
        found: Counter[str] = Counter()
        stop = threading.Event()
        callers = [
            threading.Thread(target=_call, args=(server, seed, found, stop))
            for seed in range(_CALLERS)
        ]
        for caller in callers:
            caller.start()
        samples = _samples(server.process.pid)
        stop.set()
        for caller in callers:
            caller.join()
        healthy = server.ask("GET", "/health/ready")[0] == 200
        silent = not Path(folder, "log").read_text()
    wrong = found.pop("wrong", 0)
    window = int(_SHARE * len(samples))
    before, after = median(samples[window : 2 * window]), median(samples[-window:])
    kinds = ", ".join(f"{n:,} {name}" for name, n in sorted(found.items()))
    return [
        Figure(
            f"a mixed soak of {_SECONDS / 60:.0f} minutes ({kinds})",
            "every answer as expected, no error in the log",
            f"{wrong} of {found.total():,} not as expected; log "
            f"{'empty' if silent else 'not empty'}, health {'200' if healthy else 'lost'}",
            not wrong and silent and healthy,
        ),
        Figure(
            "growth of the resident memory from the second to the last 15 % of the soak, medians",
            "under 50 MiB",
            f"{(after - before) / 2**20:+.1f} MiB (from {before / 2**20:.0f} MiB)",
            after - before < _MOST_GROWTH,
        ),
    ]


def _samples(pid: int) -> list[int]:
    """The resident memory, once a second until the end."""
    end, samples = time.monotonic() + _SECONDS, []
    while time.monotonic() < end:
        samples.append(resident_bytes(pid))
        time.sleep(_SAMPLE_S)
    return samples


def _call(server: Server, seed: int, found: Counter[str], stop: threading.Event) -> None:
    """One caller with its own mix; now and then it goes away in the middle."""
    choose = random.Random(seed)
    while not stop.is_set():
        name = choose.choice(list(REQUESTS))
        path, body, content_type, accept = REQUESTS[name]
        if choose.random() < 0.1:
            leave(server.port, body, after_s=choose.random() * 0.05)
            found["abandoned"] += 1
            continue
        status, _, answer = server.ask("POST", path, body, content_type=content_type, accept=accept)
        found[name] += 1
        if status != _EXPECTED.get(name, 200) or not answer:
            found["wrong"] += 1
