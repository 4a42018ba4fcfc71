"""A contender in processes of its own: started, asked whether it is ready, ended."""

import http.client
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from time import perf_counter

from benchmarks.serving.contenders import ROOT, Contender
from tests.server_process import free_port

_START_S, _END_S, _FALL_S = 120, 15, 2


class NotStarted(Exception):
    """It ended, or was not ready in time; the text is the end of its log."""


class Process:
    """A running contender: all processes of the session that it was started as the leader of."""

    def __init__(self, contender: Contender) -> None:
        self.port = free_port()
        self._folder = tempfile.TemporaryDirectory(prefix="bench-")
        self.log = Path(self._folder.name, "log")
        settings = {
            name: value.format(port=self.port) for name, value in contender.settings.items()
        }
        command = [part.format(port=self.port) for part in contender.command]
        clean = {n: v for n, v in os.environ.items() if not n.startswith(("ATTENTION_", "PYTHON"))}
        path = {} if contender.environment else {"PYTHONPATH": str(ROOT)}
        began = perf_counter()
        with self.log.open("wb") as output:
            self.leader = subprocess.Popen(
                [str(contender.python), *command],
                cwd=ROOT if contender.environment is None else self.log.parent,
                env=clean | path | settings,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            self._wait(contender.ready)
        except BaseException:
            self.end()
            raise
        self.start_s = perf_counter() - began

    def _wait(self, path: str) -> None:
        until = perf_counter() + _START_S
        while perf_counter() < until and self.leader.poll() is None:
            if self._answers(path):
                return
            time.sleep(0.02)
        raise NotStarted(self.log.read_text(errors="replace")[-600:])

    def _answers(self, path: str) -> bool:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
            with closing(connection):
                connection.request("GET" if path != "/?0" else "POST", path)
                return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False

    def ended(self) -> bool:
        """Whether nothing listens there any more, or will not in a moment."""
        until = perf_counter() + _FALL_S
        while perf_counter() < until:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=_FALL_S).close()
            except ConnectionRefusedError:
                return True
            except OSError:  # busy
                return False
            time.sleep(0.1)
        return False

    def _pids(self) -> list[int]:
        return [pid for pid, session in _sessions() if session == self.leader.pid]

    def memory_mib(self) -> float:
        """What all its processes hold, shared pages divided among those that share them."""
        held = 0
        for pid in self._pids():
            try:
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
            except OSError:  # it has ended, or is a zombie
                continue
            held += sum(int(line.split()[1]) for line in rollup.splitlines() if line[:4] == "Pss:")
        return held / 1024

    def end(self) -> None:
        """Ask it to end, and end what does not."""
        self.leader.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.leader.wait(_END_S)
        for pid in self._pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.leader.wait()
        self._folder.cleanup()


def _sessions() -> Iterator[tuple[int, int]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue
            yield int(entry.name), int(stat.rpartition(")")[2].split()[3])


@contextmanager
def running(contender: Contender) -> Iterator[Process]:
    """Started for the block."""
    process = Process(contender)
    try:
        yield process
    finally:
        process.end()
