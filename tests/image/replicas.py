"""Containers of the service: started, asked from outside and from inside, stopped."""

import json
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from tests.image.command import Failed
from tests.image.compose import Service
from tests.image.engine import Engine

INSIDE = 8000
"""The port that the image listens on."""
READY_S = 120
_KNOWN_S = 20
_FACTS = Path(__file__).with_name("facts.py")
_KILL = "import os, signal, sys; os.kill(int(sys.argv[1]), signal.SIGKILL)"


@dataclass(frozen=True)
class Replica:
    """One container.

    Attributes:
        engine: that runs it.
        name: the engine's name or id of it.
        service: what it is a replica of.
        port: where it listens without a network of its own; otherwise it is published.
    """

    engine: Engine
    name: str
    service: Service
    port: int | None = None

    @property
    def address(self) -> str:
        """Where it can be asked now; a restart may change that."""
        if self.port is not None:
            return f"http://127.0.0.1:{self.port}"
        return f"http://{self.engine('port', self.name, str(INSIDE)).splitlines()[0]}"

    def ask(self, method: str, path: str, **request: Any) -> httpx.Response:
        """One request from outside, on a connection of its own and past any proxy."""
        with httpx.Client(trust_env=False, timeout=120) as client:
            return client.request(method, self.address + path, **request)

    def wait_until_ready(self) -> float:
        """Wait until it says so to the outside; the seconds that took from its start."""
        gives_up = time.monotonic() + READY_S
        while time.monotonic() < gives_up:
            with suppress(httpx.TransportError, Failed):
                if self.ask("GET", "/health/ready").status_code == 200:
                    began = datetime.fromisoformat(self.state()["StartedAt"])
                    return (datetime.now(UTC) - began).total_seconds()
            time.sleep(0.1)
        raise AssertionError(f"not ready after {READY_S} s; its log ends: {self.log()[-1000:]}")

    def execute(self, *command: str, given: str = "") -> str:
        """What a command prints inside."""
        return self.engine("exec", "--interactive", self.name, *command, given=given)

    def facts(self) -> dict[str, Any]:
        """What facts.py finds inside."""
        return dict(json.loads(self.execute("python", "-", given=_FACTS.read_text())))

    def kill_the_server(self) -> None:
        """End the serving process as a crash would, and wait until the engine knows."""
        pid, before = str(self.facts()["pid"]), self.restarts()
        with suppress(Failed):  # its container ends under it
            self.execute("python", "-c", _KILL, pid)
        gives_up = time.monotonic() + _KNOWN_S
        while self.state()["Running"] and self.restarts() == before:
            assert time.monotonic() < gives_up, "it runs on"
            time.sleep(0.1)

    def state(self) -> dict[str, Any]:
        """The engine's view of it."""
        return dict(self.engine.inspect(self.name)["State"])

    def log(self) -> str:
        """What it printed on either stream."""
        return self.engine("logs", self.name, merged=True)

    def stop(self) -> float:
        """Stop it as the engine does; how long that took, in seconds."""
        began = time.monotonic()
        self.engine("stop", self.name, timeout_s=self.service.grace_s + 30)
        return time.monotonic() - began

    def restarts(self) -> int:
        """How often the engine started it again."""
        return int(self.engine.inspect(self.name)["RestartCount"])
