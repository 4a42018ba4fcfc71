"""One request as bytes, and how its answer is read."""

import http.client
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from time import perf_counter

from benchmarks.serving.cases import Array

PATIENCE_S = 180


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, and how long it took from the first byte sent."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float


@dataclass(frozen=True, slots=True)
class Request:
    """A body for a path, and the reader of what comes back; no reader: nothing to check."""

    path: str
    body: bytes
    headers: Mapping[str, str]
    read: Callable[[Answer], dict[str, Array]] | None = field(compare=False)
    expects: int = 200


def ask(port: int, request: Request) -> Answer:
    """Post it once, on a connection of its own.

    Raises:
        RuntimeError: the answer has another status than it should have.
    """
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)) as connection:
        connection.connect()
        began = perf_counter()
        connection.request("POST", request.path, request.body, dict(request.headers))
        answer = connection.getresponse()
        body = answer.read()
        seconds = perf_counter() - began
    if answer.status != request.expects:
        message = f"{request.path}: {answer.status} {body[:300]!r}"
        raise RuntimeError(message)
    headers = {name.lower(): value for name, value in answer.getheaders()}
    return Answer(answer.status, headers, body, seconds)
