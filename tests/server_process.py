"""A service in a process of its own, for what only real sockets show."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PATH = "/v1/attention"
ERROR, WARNING = '"level":"error"', '"level":"warning"'
"""On a line of the log."""


def free_port():
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Server:
    """A service in a process of its own."""

    def __init__(self, log, *, command=(sys.executable, "-m", "service"), port=None, **settings):
        self.port = port or free_port()
        environment = {name: v for name, v in os.environ.items() if "ATTENTION_" not in name}
        settings = {"drain_delay_s": 0, **settings}
        environment |= {f"ATTENTION_{name.upper()}": str(v) for name, v in settings.items()}
        environment |= {"ATTENTION_PORT": str(self.port), "PYTHONWARNINGS": "error"}
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdout=output,
                stderr=output,
            )

    def wait_until_ready(self):
        for _ in range(600):
            if self.process.poll() is not None:
                pytest.fail(self.log.read_text())
            try:
                if self.ask("GET", "/health/ready")[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(0.05)
        pytest.fail("it never became ready")

    def ask(self, method, path, body=None, **headers):
        """Status, headers and content of an answer, on a connection of its own."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()

    def analyse(self, document, **headers):
        body = json.dumps(document).encode()
        return self.ask("POST", PATH, body, content_type="application/json", **headers)

    def connect(self, *sent):
        """A connection on which something has been sent."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        for data in sent:
            connection.sendall(data)
        return connection

    def stop(self, sig=signal.SIGTERM):
        """Ask it to end, and give its exit code."""
        self.process.send_signal(sig)
        return self.process.wait(30)


@contextmanager
def running(log, **settings):
    server = Server(log, **settings)
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.process.kill()
        server.process.wait()
