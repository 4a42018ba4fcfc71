"""Many connections: stalled ones are closed, idle ones make room, unread answers end."""

import os
import socket
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from service.server.protocol import MOST_SPARED, YOUNG_S
from tests.server.raw import NOTHING, answers, head, next_answer, post, problem, read_all
from tests.server_process import ERROR, running
from tests.waiting import wait_until

pytestmark = pytest.mark.sockets

STALLED = int(os.environ.get("STALLED_CONNECTIONS", "100"))
"""The test of 600 is the same one."""
UNFINISHED = post("Content-Length: 9", body=b"{", close=False)
BIG = b'{"inputs":{"kind":"seeded","query_length":1024,"d_k":4},"include":["weights"]}'
"""Its answer is more than 8 MB, which is more than the buffers of both kernels hold."""
STALLS = [
    b"",
    b"GET / HT",
    b"GET / HTTP/1.1\r\nHost: x\r\nX: ",
    UNFINISHED,
    post("Transfer-Encoding: chunked", body=b"ffff\r\n{", close=False),
    post("Transfer-Encoding: chunked", body=b"2\r\n{}\r\n0\r\nX: ", close=False),
    head(close=False),
    head(close=False) + b"GET / HT",
]


def files(server):
    """Open files of the server's process."""
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


def closed(connection):
    """Whether the peer has ended it; what it sent before does not matter."""
    connection.settimeout(0)
    try:
        read_all(connection)
    except BlockingIOError:
        return False
    return True


def test_stalled_connections_are_closed_while_a_good_client_is_served(tmp_path):
    """Whatever a connection stalls at, its time is bounded, and nobody else waits for it."""
    settings = {"head_timeout_s": 2, "body_timeout_s": 2, "keep_alive_s": 2}
    with running(tmp_path / "log", **settings) as server, ExitStack() as stack:
        before = files(server)
        began = time.monotonic()
        stalled = [
            stack.enter_context(server.connect(STALLS[i % len(STALLS)])) for i in range(STALLED)
        ]
        wait_until(lambda: files(server) > before + STALLED / 2, 2)
        waits, left = [], stalled
        while left and time.monotonic() < began + 6:
            asked = time.monotonic()
            assert server.analyse({"include": []})[0] == 200
            waits.append(time.monotonic() - asked)
            left = [connection for connection in left if not closed(connection)]
        assert left == []
        assert max(waits) < 0.5
        wait_until(lambda: files(server) <= before)
        assert ERROR not in server.log.read_text()


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A server of four connections, and short deadlines for what is not read."""
    log = tmp_path_factory.mktemp("server") / "log"
    settings = {"max_connections": 4, "send_timeout_s": 1, "body_timeout_s": 30}
    with running(log, **settings) as server:
        time.sleep(0.2)
        server.at_rest = files(server)
        yield server


def test_a_new_connection_takes_the_place_of_the_longest_idle(small):
    """Connections that nothing is due on never keep others out, however many there are."""
    with ExitStack() as stack:
        idle = [stack.enter_context(small.connect(head(close=False))) for _ in range(4)]
        assert [next_answer(connection).status for connection in idle] == [200] * 4
        idle[0].sendall(head(close=False))
        assert next_answer(idle[0]).status == 200
        time.sleep(1.2 * YOUNG_S)
        assert small.analyse({"include": []})[0] == 200
        wait_until(lambda: closed(idle[1]))
        assert [closed(connection) for connection in idle] == [False, True, False, False]


def test_a_flood_of_connections_keeps_nobody_out(small):
    """While connections are opened without end, every request is served and files are bounded."""
    opened, stop = [], threading.Event()

    def flood():
        while not stop.is_set():
            with suppress(OSError):
                opened.append(small.connect(b"GET / HT"))

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        statuses = []
        for _ in range(20):
            with suppress(OSError):
                statuses.append(small.ask("GET", "/health/ready")[0])
        most = files(small)
    finally:
        stop.set()
        thread.join()
    for connection in opened:
        connection.close()
    assert len(opened) > 20
    assert len(statuses) > 10
    assert set(statuses) == {200}
    assert most < small.at_rest + 4 + MOST_SPARED + 10


def test_where_all_connections_are_at_work_health_is_answered_still(small):
    """One more is 503 with the setting's name and when to try again, health excepted."""
    with ExitStack() as stack:
        busy = [stack.enter_context(small.connect(UNFINISHED)) for _ in range(4)]
        time.sleep(0.2)
        for path in ("/health/live", "/health/ready"):
            status, headers, _ = small.ask("GET", path)
            assert (status, headers["connection"]) == (200, "close")
        with small.connect(head(path="/v1/limits", close=False)) as one_more:
            (answer,) = answers(read_all(one_more))
        assert answer.status == 503
        assert answer.headers["connection"] == "close"
        assert int(answer.headers["retry-after"]) >= 1
        document = problem(answer)
        assert document["type"] == "/problems/too-many-connections"
        assert "ATTENTION_MAX_CONNECTIONS" in document["detail"]
        for connection in busy:
            connection.sendall(b" " * 6 + b"}\n")
            assert next_answer(connection).status == 200
    wait_until(lambda: small.ask("GET", "/v1/limits")[0] == 200)


def reader(server, request, window=4096):
    """A client whose kernel takes little before it is read."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
    connection.settimeout(30)
    connection.connect(("127.0.0.1", server.port))
    connection.sendall(request)
    return connection


@pytest.mark.parametrize("close", [True, False], ids=["close", "keep-alive"])
def test_an_answer_that_nobody_reads_is_given_up(small, close):
    """A caller that reads nothing for the time of the setting loses the rest of its answer."""
    wait_until(lambda: files(small) == small.at_rest)
    request = post(f"Content-Length: {len(BIG)}", body=BIG, close=close)
    with reader(small, request) as connection:
        assert connection.recv(10).startswith(b"HTTP/1.1 2")
        assert files(small) > small.at_rest
        wait_until(lambda: files(small) == small.at_rest, 5)
        assert len(read_all(connection)) < 8_000_000


def test_a_slow_reader_that_reads_on_gets_all(small):
    """An answer may take longer than the time of the setting, as long as it is read."""
    request = post(f"Content-Length: {len(BIG)}", body=BIG)
    began, received = time.monotonic(), bytearray()
    with reader(small, request, 2**16) as connection:
        while chunk := connection.recv(2**17):
            received += chunk
            time.sleep(0.05 if time.monotonic() < began + 2.5 else 0)
    assert time.monotonic() > began + 2
    (answer,) = answers(bytes(received))
    assert (answer.status, len(answer.body) > 8_000_000) == (200, True)


def test_a_caller_that_leaves_takes_all_its_requests_along(small):
    """Requests that wait behind another one on its connection are forgotten with it."""
    large = b'{"inputs":{"kind":"seeded","query_length":24576},"include":["diagnostics"]}'
    with small.connect(post(f"Content-Length: {len(large)}", body=large, close=False)) as caller:
        caller.sendall(post(f"Content-Length: {len(NOTHING)}", body=NOTHING, close=False) * 3)
        time.sleep(0.3)
    began = time.monotonic()
    assert small.analyse({"include": []})[0] == 200
    assert time.monotonic() - began < 1
    assert ERROR not in small.log.read_text()
