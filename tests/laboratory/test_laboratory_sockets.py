"""The laboratory over real sockets: rows as they are done, and callers that go away."""

import json
import socket
import time
from contextlib import closing

import pytest

from tests.server_process import running

pytestmark = pytest.mark.sockets

LONG_SWEEP = {"d_k": [256] * 128, "repeats": 16, "key_length": [256]}
"""Half a minute of work, were it not stopped; every point takes more than 0.1 s."""
PROBE = {"inputs": {"kind": "seeded", "query_length": 4096}, "include": ["diagnostics"]}
MEMORY = 48 * 2**20
LONG_COMPARISON = {
    "inputs": {"kind": "seeded", "query_length": 4096, "heads": 2, "d_k": 32},
    "variants": [{"label": f"{n}", "mechanism": {"softcap": n + 1.0}} for n in range(16)],
    "target": {"normalized_entropy_min": 0.9999},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """With one place in the queue, and hardly more memory than PROBE: what is held is seen."""
    log = tmp_path_factory.mktemp("server") / "log"
    with running(log, max_queue=1, max_in_flight_bytes=MEMORY) as server:
        yield server


def posted(server, path, document, accept="application/json"):
    """A connection on which a request has been sent whole."""
    body = json.dumps(document).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Accept: {accept}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    connection.sendall(head.encode() + body)
    return connection


def answered_again(server, seconds):
    """Whether the device is free within so many seconds, and how often it was not."""
    refused, until = 0, time.monotonic() + seconds
    while time.monotonic() < until:
        status, *_ = server.analyse({})
        if status == 200:
            return refused
        assert status == 429
        refused += 1
        time.sleep(0.02)
    pytest.fail("the work of a caller that has gone goes on")


def test_rows_come_as_they_are_done(server):
    """The first line is there long before the last could be."""
    began = time.monotonic()
    with closing(posted(server, "/v1/sweeps", LONG_SWEEP, "application/x-ndjson")) as connection:
        received = b""
        while b'"done":3' not in received:
            received += connection.recv(65536)
        assert time.monotonic() - began < 20
        assert server.analyse({})[0] == 429
    assert received.startswith(b"HTTP/1.1 200")
    assert b"application/x-ndjson" in received
    answered_again(server, 10)


@pytest.mark.parametrize("accept", ["application/x-ndjson", "application/json", "text/csv"])
def test_a_caller_of_a_sweep_that_goes_away_stops_it(server, accept):
    """The place in the queue is free again within moments, in every encoding."""
    with closing(posted(server, "/v1/sweeps", LONG_SWEEP, accept)):
        time.sleep(0.8)
        assert server.analyse({})[0] == 429
    answered_again(server, 10)


def test_a_caller_of_a_comparison_that_goes_away_stops_it(server):
    """Between two blocks of it, not only between two variants."""
    with closing(posted(server, "/v1/comparisons", LONG_COMPARISON)):
        time.sleep(0.8)
        assert server.analyse({})[0] == 429
    answered_again(server, 10)


def test_memory_is_given_back(server):
    """After all of these a request that needs all memory is let in, and nothing is logged.

    A request that is alone is always let in; anything still held would make it be refused.
    """
    answered_again(server, 10)
    body = json.dumps(PROBE).encode()
    kind = {"content_type": "application/json"}
    _, _, content = server.ask("POST", "/v1/attention/estimate", body, **kind)
    assert json.loads(content)["peak_bytes"] > MEMORY
    status, _, content = server.analyse(PROBE)
    assert status == 200, content[:300]
    assert "Traceback" not in server.log.read_text()
