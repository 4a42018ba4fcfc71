"""How the process becomes ready, and how it ends."""

import http.client
import json
import signal
import sys
import threading
import time

import pytest

from tests.server.hanging import REASON
from tests.server.raw import answers, head, next_answer, post, problem, read_all
from tests.server_process import ERROR, WARNING, running
from tests.waiting import wait_until

pytestmark = pytest.mark.sockets

LONG = {"inputs": {"kind": "seeded", "query_length": 32_768}, "include": ["diagnostics"]}
"""More than a second of work."""
ENDLESS = {
    "inputs": {"kind": "seeded", "query_length": 32_768, "d_k": 256},
    "include": ["diagnostics", "jacobian_spectral"],
}
"""More work than any test waits for."""


class Call:
    """An analysis that somebody waits for on another thread."""

    def __init__(self, server, document):
        self.answer, self.lost = None, None
        self._thread = threading.Thread(target=self._ask, args=(server, document))
        self._thread.start()
        time.sleep(0.3)
        assert self._thread.is_alive()

    def _ask(self, server, document):
        try:
            self.answer = server.analyse(document)
        except (OSError, http.client.HTTPException) as error:
            self.lost = error

    def wait(self):
        self._thread.join(60)
        return self


def ready(server):
    """One check of readiness as an Answer."""
    with server.connect(head(path="/health/ready")) as connection:
        (answer,) = answers(read_all(connection))
    return answer


def refuses_connections(server):
    try:
        server.connect().close()
    except ConnectionRefusedError:
        return True
    return False


def orderly(server, *, warnings=0):
    """The log of a process that ended well."""
    log = server.log.read_text()
    for word in (ERROR, "Traceback", "Exception"):
        assert word not in log
    assert log.count(WARNING) == warnings
    return log


def test_sigterm_drains_before_it_stops(tmp_path):
    """Readiness turns 503 while new connections are accepted and work is served; then what is in
    flight finishes, idle connections are closed and the process ends with 0 and no error.
    """  # noqa: D205 - one sentence
    with (
        running(tmp_path / "log", drain_delay_s=1.5) as server,
        server.connect(head(close=False)) as idle,
        server.connect(head(close=False)) as used,
    ):
        assert "connection" not in next_answer(idle).headers
        assert "connection" not in next_answer(used).headers
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: ready(server).status == 503)
        document = problem(ready(server))
        assert "stopping" in document["detail"]
        assert server.ask("GET", "/health/live")[0] == 200
        status, headers, _ = server.analyse({})
        assert (status, headers["connection"]) == (200, "close")
        used.sendall(head(close=False))
        (last,) = answers(read_all(used))
        assert (last.status, last.headers["connection"]) == (200, "close")
        call = Call(server, LONG)
        wait_until(lambda: refuses_connections(server))
        assert read_all(idle) == b""
        assert server.process.wait(30) == 0
        assert call.wait().answer[0] == 200
        assert call.answer[1]["connection"] == "close"
    orderly(server)


def test_a_call_before_the_signal_is_the_connections_last(tmp_path):
    """What was in flight when the signal came is answered, and its connection closed."""
    with running(tmp_path / "log", drain_delay_s=30) as server:
        body = json.dumps(LONG).encode()
        request = post(f"Content-Length: {len(body)}", body=body, close=False)
        with server.connect(request) as connection:
            time.sleep(0.2)
            server.process.send_signal(signal.SIGTERM)
            (answer,) = answers(read_all(connection))
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert ready(server).status == 503


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal_ends_at_once(tmp_path, second):
    """Who asks twice does not wait for anything."""
    with running(tmp_path / "log", drain_delay_s=30) as server:
        call = Call(server, ENDLESS)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: ready(server).status == 503)
        began = time.monotonic()
        assert server.stop(second) == 128 + second
        assert time.monotonic() - began < 1
        assert call.wait().lost is not None


def test_ctrl_c_skips_the_delay(tmp_path):
    """Who works at a terminal does not wait for a load balancer."""
    with running(tmp_path / "log", drain_delay_s=30) as server:
        began = time.monotonic()
        assert server.stop(signal.SIGINT) == 0
        assert time.monotonic() - began < 5
    orderly(server)


def test_past_the_grace_callers_are_cut(tmp_path):
    """What does not finish in the grace is given up with one warning, and the exit code is 0."""
    with running(tmp_path / "log", grace_s=0.7) as server:
        call = Call(server, ENDLESS)
        began = time.monotonic()
        assert server.stop() == 0
        assert 0.6 < time.monotonic() - began < 3
        assert call.wait().lost is not None
    log = orderly(server, warnings=1)
    assert "The grace of 0.7 s is over; requests that are cut: 1" in log


def test_stalled_connections_do_not_hold_the_end_up(tmp_path):
    """Neither a head nor a body that never comes keeps the process until the end of its grace."""
    with running(tmp_path / "log", grace_s=20, body_timeout_s=1) as server:
        stalled = [server.connect(), server.connect(b"GET / HT")]
        stalled.append(server.connect(post("Content-Length: 9", body=b"{")))
        time.sleep(0.1)
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 4
        assert answers(read_all(stalled[2]))[0].status == 408
        for connection in stalled:
            connection.close()
    orderly(server)


HANGING = (sys.executable, "-m", "tests.server.hanging")


def test_a_computation_that_hangs_ends_the_process(tmp_path):
    """Readiness and work are 503 with the reason, what is in flight is answered, and after the
    grace the process ends with a code that is not 0 although its threads never do.
    """  # noqa: D205 - one sentence
    with running(tmp_path / "log", command=HANGING, grace_s=4) as server:
        call = Call(server, LONG)
        began = time.monotonic()
        server.process.send_signal(signal.SIGUSR1)
        wait_until(lambda: ready(server).status == 503)
        assert problem(ready(server))["detail"] == REASON
        assert server.ask("GET", "/health/live")[0] == 200
        status, headers, body = server.analyse({})
        assert (status, json.loads(body)["detail"]) == (503, REASON)
        assert int(headers["retry-after"]) >= 1
        wait_until(lambda: server.analyse({})[1].get("connection") == "close")
        assert server.process.wait(30) == 1
        assert 3.9 < time.monotonic() - began < 6
        assert call.wait().answer[0] == 200
    log = server.log.read_text()
    assert log.count(ERROR) == log.count(REASON) == 1
    assert "Traceback" not in log


def test_sigterm_ends_a_process_that_hangs_sooner(tmp_path):
    """Who asks it to stop waits for what is in flight only, not for the thread that hangs."""
    with running(tmp_path / "log", command=HANGING, grace_s=20) as server:
        call = Call(server, LONG)
        server.process.send_signal(signal.SIGUSR1)
        wait_until(lambda: ready(server).status == 503)
        began = time.monotonic()
        assert server.stop() == 1
        assert time.monotonic() - began < 15
        assert call.wait().answer[0] == 200
