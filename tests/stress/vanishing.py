"""Callers that go away while their request is computed."""

import json
import socket
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path

from tests.server_process import Server, running
from tests.stress.figures import Figure

_CALLERS = 200
_LONG = {"kind": "seeded", "heads": 8, "query_length": 4096}
_BODY = json.dumps({"inputs": _LONG, "include": ["diagnostics", "key_share"]}).encode()
_SOON_S = 5.0


def leave(port: int, body: bytes, *, after_s: float) -> None:
    """Send a request, and go away without waiting for the answer."""
    head = (
        f"POST /v1/attention HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with closing(socket.create_connection(("127.0.0.1", port), timeout=10)) as connection:
        connection.sendall(head.encode() + body)
        time.sleep(after_s)


def run() -> list[Figure]:
    """200 callers in waves that leave in the middle of a computation; then one that stays."""
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder, "log"), log_level="error") as server,
    ):
        for _ in range(_CALLERS // 40):
            _wave(server, 40)
        began = time.monotonic()
        status, _, _ = server.analyse({"include": []})
        waited = time.monotonic() - began
        silent = not Path(folder, "log").read_text()
    return [
        Figure(
            f"{_CALLERS} callers gone in the middle of an analysis of several seconds",
            f"the next caller is answered within {_SOON_S:.0f} s, no error in the log",
            f"{status} after {waited * 1e3:.0f} ms; log {'empty' if silent else 'not empty'}",
            status == 200 and waited < _SOON_S and silent,
        )
    ]


def _wave(server: Server, count: int) -> None:
    callers = [
        threading.Thread(target=leave, args=(server.port, _BODY), kwargs={"after_s": 0.2 + i / 100})
        for i in range(count)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
