"""Hundreds of connections that send nothing, or next to nothing."""

import socket
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path

from tests.server_process import Server, running
from tests.stress.figures import Figure

_CONNECTIONS = 600
_HEAD_S, _BODY_S, _SEND_S = 3, 3, 3
_CLOSED_S = 15.0
_HALF_HEAD = b"POST /v1/attention HTTP/1.1\r\nHost: x\r\nX-Slow: "
_HALF_BODY = b"POST /v1/attention HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"


def run() -> list[Figure]:
    """Silent ones, heads and bodies that never end; a good client asks all the while."""
    settings = {"head_timeout_s": _HEAD_S, "body_timeout_s": _BODY_S, "send_timeout_s": _SEND_S}
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder, "log"), log_level="error", max_connections=2000, **settings) as server,
        ExitStack() as stack,
    ):
        stalled = [
            stack.enter_context(closing(_stall(server, sent)))
            for sent in (b"", _HALF_HEAD, _HALF_BODY) * (_CONNECTIONS // 3)
        ]
        closed, slowest, good = _watch(server, stalled)
        silent = not Path(folder, "log").read_text()
    return [
        Figure(
            f"{_CONNECTIONS} stalled connections (nothing sent, half a head, half a body) with "
            f"deadlines of {_HEAD_S} s, and a good client beside them",
            "all closed; every request of the good client answered",
            f"{closed} closed within {_CLOSED_S:.0f} s; {good} good requests, the slowest "
            f"{slowest * 1e3:.0f} ms; log {'empty' if silent else 'not empty'}",
            closed == _CONNECTIONS and good > 10 and slowest < 1.0 and silent,
        )
    ]


def _stall(server: Server, sent: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    connection.sendall(sent)
    return connection


def _watch(server: Server, stalled: list[socket.socket]) -> tuple[int, float, int]:
    """How many were closed, the slowest good request, and how many there were."""
    began, slowest, good, open_ones = time.monotonic(), 0.0, 0, list(stalled)
    while open_ones and time.monotonic() - began < _CLOSED_S:
        asked = time.monotonic()
        if server.analyse({"include": []})[0] == 200:
            good += 1
        slowest = max(slowest, time.monotonic() - asked)
        open_ones = [connection for connection in open_ones if not _closed(connection)]
    return len(stalled) - len(open_ones), slowest, good


def _closed(connection: socket.socket) -> bool:
    """Whether the other side has ended it; what it said before is thrown away."""
    connection.setblocking(False)
    try:
        while chunk := connection.recv(65536):
            del chunk
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
