"""Steady load below the capacity, and three times as much as it can take."""

import json
import tempfile
from pathlib import Path

from tests.server_process import Server, running
from tests.stress import hey
from tests.stress.figures import Figure
from tests.stress.health import watching

_SHAPE = {"kind": "seeded", "heads": 8, "query_length": 128, "key_length": 128, "d_k": 64}
_SEEDED = json.dumps({"inputs": _SHAPE, "include": ["diagnostics"]}).encode()
_MODERATE, _MODERATE_S = 0.7, 60.0
_TOO_MUCH, _TOO_MUCH_S = 3.0, 20.0
_LEAST_GOODPUT, _LEAST_OFFERED, _HEALTH_MS = 0.8, 0.9, 100.0
_WORKERS = 8
# Each of hey's workers waits for its answer; so many keep the rate up where answers take long.
_CROWD = 200
_ALLOWED = {200, 429, 503}


def run() -> list[Figure]:
    """Both, against one server each, on the capacity it has just shown."""
    with tempfile.TemporaryDirectory() as folder:
        with running(Path(folder, "steady"), log_level="warning") as server:
            steady = _steady(server)
        with running(Path(folder, "overload"), log_level="warning") as server:
            overload = _overload(server)
    return [*steady, *overload]


def capacity(server: Server, seconds: float = 8.0) -> float:
    """Answers a second to eight callers that always wait for them, after a warm-up.

    By the same tool as the load, which takes its own share of the cores.
    """
    for duration in (2.0, seconds):
        told = hey.load(_url(server), _SEEDED, rate=None, workers=_WORKERS, seconds=duration)
    return told.statuses[200] / seconds


def _url(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}/v1/attention"


def _steady(server: Server) -> list[Figure]:
    most = capacity(server)
    rate = _MODERATE * most
    told = hey.load(_url(server), _SEEDED, rate=rate, workers=_WORKERS, seconds=_MODERATE_S)
    good, failed = told.statuses[200], told.unanswered + _not_200(told)
    latency = (
        f"median {told.milliseconds.get(50, 0):.0f} ms, p99 {told.milliseconds.get(99, 0):.0f} ms"
    )
    return [
        Figure(
            f"constant load at 70 % of the capacity ({rate:.0f} of {most:.0f} requests/s) for 60 s",
            "no failure",
            f"{failed} of {good + failed:,} failed; {latency}",
            failed == 0 and good > 0.9 * rate * _MODERATE_S,
        )
    ]


def _not_200(told: hey.Told) -> int:
    return sum(n for status, n in told.statuses.items() if status != 200)


def _overload(server: Server) -> list[Figure]:
    most = capacity(server)
    rate = _TOO_MUCH * most
    with watching(server.port) as health:
        told = hey.load(_url(server), _SEEDED, rate=rate, workers=_CROWD, seconds=_TOO_MUCH_S)
    goodput = told.statuses[200] / _TOO_MUCH_S / most
    offered = sum(told.statuses.values()) / _TOO_MUCH_S
    return [
        Figure(
            f"overload at 3 × the capacity ({offered:.0f} requests/s came of {rate:.0f}) for 20 s",
            "only 200, 429 and 503",
            str(told),
            not told.unanswered
            and set(told.statuses) <= _ALLOWED
            and offered >= _LEAST_OFFERED * rate,
        ),
        Figure(
            "goodput during the overload",
            "at least 80 % of the capacity",
            f"{goodput:.0%}",
            goodput >= _LEAST_GOODPUT,
        ),
        Figure(
            "health during the overload",
            "200, under 100 ms at p99",
            f"p99 {health.p99_ms:.0f} ms of {len(health.milliseconds)} checks, "
            f"{len(health.other)} not 200",
            health.p99_ms < _HEALTH_MS and not health.other,
        ),
    ]
