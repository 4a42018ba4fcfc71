"""HTTP by hand: what is sent byte by byte, and every answer that comes back on one connection."""

import json
import time
from contextlib import closing, suppress
from dataclasses import dataclass, field

from service.api.problems import known_problems

ANALYSIS = "/v1/attention"
NOTHING = b'{"include":[]}'
"""A request for an analysis that answers little."""


def head(method="GET", path="/health/live", version="HTTP/1.1", *lines, close=True):
    """A request's head; without Connection: close the connection goes on."""
    fixed = [f"{method} {path} {version}", "Host: x", *(["Connection: close"] if close else [])]
    encoded = [*(line.encode() for line in fixed), *(as_bytes(line) for line in lines)]
    return b"\r\n".join([*encoded, b"", b""])


def post(*lines, body=b"", close=True):
    """A request for an analysis."""
    return head("POST", ANALYSIS, "HTTP/1.1", *lines, close=close) + body


def as_bytes(line):
    return line if isinstance(line, bytes) else line.encode()


@dataclass
class Answer:
    """One of the answers on a connection."""

    status: int
    headers: dict[str, str]
    body: bytes = field(default=b"", repr=False)


def exchange(server, *steps, within=20.0):
    """Send bytes, pause for seconds, and read every answer until the server closes."""
    with closing(server.connect()) as connection:
        connection.settimeout(within)
        with suppress(OSError):  # refused before all was sent: the answer is there nevertheless
            for step in steps:
                time.sleep(step) if isinstance(step, float) else connection.sendall(step)
        return answers(read_all(connection))


def read_all(connection):
    """Everything until the end, or until the peer, which was told off, resets the connection."""
    received = bytearray()
    with suppress(ConnectionResetError):
        while chunk := connection.recv(65536):
            received += chunk
    return bytes(received)


def next_answer(connection):
    """The next answer on a connection that goes on."""
    received = bytearray()
    while True:
        received += connection.recv(65536)
        start, separator, body = received.partition(b"\r\n\r\n")
        if separator:
            length = int(start.lower().partition(b"content-length: ")[2].split()[0])
            if len(body) == length:
                return answers(bytes(received))[0]


def answers(received):
    """All answers in what was received."""
    found = []
    while received:
        start, separator, received = received.partition(b"\r\n\r\n")
        assert separator, f"an answer is cut: {start[:200]!r}"
        status, *lines = start.decode("latin-1").split("\r\n")
        assert status.startswith("HTTP/1.1 "), status
        headers = {name.lower(): value for name, _, value in (x.partition(": ") for x in lines)}
        assert len(headers) == len(lines), f"a header came twice: {lines}"
        length = int(headers.get("content-length", 0))
        found.append(Answer(int(status.split()[1]), headers, received[:length]))
        received = received[length:]
    return found


def problem(answer):
    """The document of an error, which has one form from every layer."""
    assert answer.headers["content-type"] == "application/problem+json"
    assert "content-encoding" not in answer.headers
    assert "server" not in answer.headers
    assert answer.headers["date"]
    assert len(answer.body) <= 16 * 1024
    document = json.loads(answer.body)
    required = {"type", "title", "status", "detail", "instance", "request_id", "errors", "error"}
    assert required <= document.keys() <= required | {"limit", "allowed", "needed"}
    slug = document["type"].removeprefix("/problems/")
    assert known_problems()[slug][:2] == (answer.status, document["title"])
    assert document["error"] == document["detail"] != ""
    assert document["request_id"] == answer.headers["x-request-id"]
    assert ("retry-after" in answer.headers) == (answer.status in (429, 503))
    return document
