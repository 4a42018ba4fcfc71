"""A health check that asks all the time, as an orchestrator would."""

import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

_PAUSE_S = 0.02


@dataclass(slots=True)
class Watched:
    """The milliseconds of each check, and what was not 200."""

    milliseconds: list[float] = field(default_factory=list)
    other: list[str] = field(default_factory=list)

    @property
    def p99_ms(self) -> float:
        """The time within which 99 % of the checks were answered."""
        ordered = sorted(self.milliseconds)
        return ordered[int(0.99 * (len(ordered) - 1))]


@contextmanager
def watching(port: int, path: str = "/health/ready") -> Iterator[Watched]:
    """Check over and over, on one connection, as long as the block runs."""
    watched, stop = Watched(), threading.Event()

    def watch() -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
            while not stop.wait(_PAUSE_S):
                began = time.monotonic()
                try:
                    connection.request("GET", path)
                    answer = connection.getresponse()
                    answer.read()
                    if answer.status != 200:
                        watched.other.append(str(answer.status))
                except OSError as error:
                    watched.other.append(type(error).__name__)
                    connection.close()
                watched.milliseconds.append((time.monotonic() - began) * 1e3)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield watched
    finally:
        stop.set()
        thread.join()
