"""Ends of the process: asked for, forced, and after a computation that never returns."""

import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from tests.server_process import Server, running
from tests.stress.figures import Figure

_SOME_SECONDS = {"kind": "seeded", "heads": 8, "query_length": 4096}
_REQUEST = {"inputs": _SOME_SECONDS, "include": ["diagnostics"]}
_CALLERS = 8
_BROKEN = """
import sys, threading, time
from service.api import computing
from service.__main__ import main

run, broken, kind = computing.run_together, threading.Event(), sys.argv[1]

def together(jobs, runtime):
    if jobs[0].call.options.inputs.kind != "seeded" or not jobs[0].call.options.inputs.seed:
        return run(jobs, runtime)
    if kind == "raises":
        raise RuntimeError("a fault of the computation")
    if kind == "memory":
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
    threading.Event().wait()

computing.run_together = together
main()
"""


def run() -> list[Figure]:
    """SIGTERM, SIGKILL, and computations that raise, run out of memory or hang."""
    return [_terminated(), _killed(), _raises(), _memory(), _hangs()]


def _terminated() -> Figure:
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder, "log"), log_level="warning", drain_delay_s=1) as server,
        ThreadPoolExecutor(_CALLERS) as pool,
    ):
        asked = [pool.submit(server.analyse, _REQUEST) for _ in range(_CALLERS)]
        time.sleep(0.5)
        code = server.stop()
        statuses = [one.result()[0] for one in asked]
        silent = not Path(folder, "log").read_text()
    return Figure(
        f"SIGTERM with {_CALLERS} analyses in flight",
        "all answered with 200, exit code 0, no error in the log",
        f"{statuses.count(200)} × 200; exit code {code}; log {'empty' if silent else 'not empty'}",
        statuses == [200] * _CALLERS and code == 0 and silent,
    )


def _killed() -> Figure:
    """Killed amid its work, and started again on the same port as a supervisor would."""
    with tempfile.TemporaryDirectory() as folder:
        with (
            running(Path(folder, "log")) as server,
            ThreadPoolExecutor(_CALLERS) as pool,
        ):
            asked = [pool.submit(server.analyse, _REQUEST) for _ in range(_CALLERS)]
            time.sleep(0.5)
            server.process.kill()
            server.process.wait()
            errors = [one.exception() for one in asked]
        began = time.monotonic()
        with running(Path(folder, "log"), port=server.port) as again:
            waited = time.monotonic() - began
            status, _, _ = again.analyse({})
    return Figure(
        f"SIGKILL with {_CALLERS} analyses in flight, and a restart on the same port",
        "every caller sees its connection end; ready and answering again",
        f"{sum(isinstance(e, OSError) for e in errors)} connections ended; ready after "
        f"{waited:.1f} s, then {status}",
        all(isinstance(error, OSError) for error in errors) and status == 200,
    )


@contextmanager
def _broken(kind: str, folder: str, **settings: object) -> Iterator[Server]:
    """A service whose computations fail in one way where the seed is not 0."""
    command = [sys.executable, "-c", _BROKEN, kind]
    with running(Path(folder, "log"), command=command, **settings) as server:
        yield server


def _bad(server: Server) -> int:
    status, _, _ = server.analyse({"inputs": {"kind": "seeded", "seed": 1}})
    return int(status)


def _raises() -> Figure:
    with tempfile.TemporaryDirectory() as folder, _broken("raises", folder) as server:
        statuses = [_bad(server), server.analyse({})[0]]
        told = "a fault of the computation" in server.log.read_text()
    return Figure(
        "a computation that raises",
        "500 to its caller, the fault in the log, the next caller 200",
        f"{statuses[0]}, then {statuses[1]}; {'in' if told else 'not in'} the log",
        statuses == [500, 200] and told,
    )


def _memory() -> Figure:
    with tempfile.TemporaryDirectory() as folder, _broken("memory", folder) as server:
        statuses = [_bad(server), server.analyse({})[0]]
    return Figure(
        "a computation that runs out of memory",
        "503 to its caller, the next caller 200",
        f"{statuses[0]}, then {statuses[1]}",
        statuses == [503, 200],
    )


def _hangs() -> Figure:
    settings = {"deadline_s": 1, "hang_after_s": 1, "grace_s": 2, "drain_delay_s": 0}
    with tempfile.TemporaryDirectory() as folder, _broken("hangs", folder, **settings) as server:
        first = _bad(server)
        ready = _ready_until_lost(server)
        began = time.monotonic()
        code = server.process.wait(30)
        took = time.monotonic() - began
    return Figure(
        "a computation that never returns",
        "504 to its caller, readiness 503, and the process ends with an error after the grace",
        f"{first}, then readiness {ready}; ended with {code} {took:.1f} s later",
        first == 504 and ready == 503 and code not in (0, None),
    )


def _ready_until_lost(server: Server) -> int:
    """The first answer of readiness that is not 200."""
    for _ in range(200):
        try:
            status, _, _ = server.ask("GET", "/health/ready")
        except OSError:
            return 0
        if status != 200:
            return int(status)
        time.sleep(0.02)
    return 200
