import gzip
import http.client
import json
import socket
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from service.process import serve
from tests.files import response_of
from tests.server_process import running

pytestmark = pytest.mark.sockets

ROOT = Path(__file__).parents[1]
PATH = "/v1/attention"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(tmp_path_factory.mktemp("server") / "log", deadline_s=4) as server:
        yield server


def read_all(connection):
    received = b""
    while chunk := connection.recv(65536):
        received += chunk
    return received


def test_the_first_answer_takes_a_hundred_bytes(server):
    """A request typed by hand is answered, analysis and verdict included."""
    request = b"POST /v1/attention HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n"
    request += b"Connection: close\r\n\r\n{}"
    assert len(request) <= 100
    with closing(socket.create_connection(("127.0.0.1", server.port), timeout=30)) as connection:
        connection.sendall(request)
        head, _, body = read_all(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    answer = json.loads(body)
    assert answer["verdict"]["level"] == "healthy"
    assert len(answer["output"][0][0]) == 16
    assert b"\r\nserver:" not in head.lower()


def test_curls_defaults_are_explained(server):
    """What curl -d sends unasked is refused with the header to add."""
    kind = "application/x-www-form-urlencoded"
    status, headers, body = server.ask("POST", PATH, b"{}", content_type=kind)
    assert status == 415
    assert headers["content-type"] == "application/problem+json"
    assert "curl" in json.loads(body)["detail"]


def health_while(server, thread, path="/health/live"):
    """The waits of a health check that is asked over and over while a thread runs."""
    waits = []
    while thread.is_alive() or not waits:
        began = time.monotonic()
        assert server.ask("GET", path)[0] == 200
        waits.append(time.monotonic() - began)
        time.sleep(0.02)
    return waits


def in_background(work):
    """Run something on a thread; its result comes as the only item of a list."""
    found = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    return thread, found


def test_health_answers_while_a_large_job_computes(server):
    """Liveness and readiness never wait behind an analysis."""
    shape = {"kind": "seeded", "query_length": 16_384, "d_k": 64}
    request = {"inputs": shape, "include": ["diagnostics", "key_share"]}
    thread, found = in_background(lambda: server.analyse(request))
    time.sleep(0.1)
    waits = health_while(server, thread) + health_while(server, thread, "/health/ready")
    thread.join()
    ((status, _, body),) = found
    assert status in (200, 504), body[:500]
    assert len(waits) > 10
    assert max(waits) < 0.5


def large_body(size):
    """A JSON body of just that many bytes, most of it one tensor that is refused in the end."""
    start, end = b'{"inputs":{"kind":"tensors","query":[[', b']]},"include":[]}'
    numbers = b"0.1234567," * ((size - len(start) - len(end)) // 10) + b"1"
    return start + numbers.ljust(size - len(start) - len(end)) + end


@pytest.mark.parametrize(
    "body",
    [
        large_body(4_718_592),
        b'{"inputs":{"kind":"tensors","query":[%s]}}' % b",".join([b"[1]"] * 1_000_000),
        b'{"mask":{"bias":[%s]}}' % b",".join([b"[null,1]"] * 500_000),
        b'{"a:b":"%s"}' % (b"\\\\" * 2_300_000),
        b'{"a":[%s,":"]}' % b",".join([b'""'] * 1_000_000),
        b'{"a":[%s]}' % b",".join([b"{}"] * 1_000_000),
    ],
    ids=["numbers", "rows", "bias", "escapes", "strings", "objects"],
)
def test_health_answers_while_a_body_is_parsed(server, body):
    """The largest JSON bodies, well meant or not, hold nothing up while they are read."""
    assert len(body) <= 4_718_592
    thread, found = in_background(
        lambda: server.ask("POST", PATH, body, content_type="application/json")
    )
    waits = health_while(server, thread)
    thread.join()
    ((status, _, _),) = found
    assert status in (200, 413, 422)
    assert max(waits) < 0.5


def test_health_answers_while_a_large_answer_is_written(server):
    """Writing a million numbers as JSON holds nothing up."""
    shape = {"kind": "seeded", "query_length": 1024, "d_k": 4}
    request = {"inputs": shape, "include": ["weights"]}
    thread, found = in_background(lambda: server.analyse(request))
    waits = health_while(server, thread)
    thread.join()
    ((status, _, body),) = found
    assert status == 200
    assert len(body) > 8_000_000
    assert max(waits) < 0.5


def test_many_at_once_are_all_answered(server):
    """Concurrent requests each get their own answer, by their id."""
    answers = {}

    def one(seed):
        request = {"inputs": {"kind": "seeded", "seed": seed}, "include": ["output"]}
        answers[seed] = server.analyse(request, x_request_id=f"seed-{seed}")

    threads = [threading.Thread(target=one, args=(seed,)) for seed in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    documents = {seed: json.loads(body) for seed, (status, _, body) in answers.items()}
    assert {seed: d["request_id"] for seed, d in documents.items()} == {
        seed: f"seed-{seed}" for seed in range(16)
    }
    assert len({json.dumps(d["output"]) for d in documents.values()}) == 16
    alone = json.loads(server.analyse({"inputs": {"kind": "seeded", "seed": 3},
                                       "include": ["output"]})[2])  # fmt: skip
    assert alone["output"] == documents[3]["output"]


def test_answers_are_the_same_over_the_wire(server):
    """A binary answer arrives whole, with its length."""
    accept = "application/x-safetensors"
    status, headers, body = server.analyse({}, accept=accept)
    assert (status, headers["content-type"]) == (200, accept)
    assert int(headers["content-length"]) == len(body)
    assert response_of(body)["verdict"]["level"] == "healthy"


def test_a_chunked_body_is_read(server):
    """A body without a length is read as it comes."""
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)) as connection:
        chunks = iter([b'{"incl', b'ude":', b"[]}"])
        connection.request("POST", PATH, chunks, {"content-type": "application/json"})
        assert connection.getresponse().status == 200


def test_length_and_chunks_together_are_refused(server):
    """A request that could be read in two ways is not served."""
    request = (
        b"POST /v1/attention HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    )
    with closing(socket.create_connection(("127.0.0.1", server.port), timeout=30)) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        received = read_all(connection)
    assert received.count(b"HTTP/1.1") <= 1
    assert b" 200 " not in received


def test_a_compressed_body_is_refused_over_the_wire(server):
    """A gzip body is told apart from plain bytes before it is parsed."""
    packed = gzip.compress(b"{}")
    status, _, body = server.ask("POST", PATH, packed, content_encoding="gzip")
    assert status == 415
    assert json.loads(body)["status"] == 415


def test_a_client_that_leaves_harms_nobody(server):
    """A connection closed in the middle of a body leaves the service as it was."""
    for _ in range(3):
        with closing(socket.create_connection(("127.0.0.1", server.port))) as connection:
            connection.sendall(
                b"POST /v1/attention HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"
            )
    assert server.analyse({"include": []})[0] == 200
    assert "Traceback" not in server.log.read_text()


def test_settings_come_from_the_environment_and_sigterm_ends_it(tmp_path):
    """Limits and threads are those of the variables; SIGTERM lets the running answer finish and
    ends the process cleanly.
    """  # noqa: D205 - one sentence
    settings = {"max_json_bytes": 200, "threads": 1, "body_timeout_s": 0.3, "log_level": "warning"}
    with running(tmp_path / "log", **settings) as server:
        status, _, body = server.analyse({"labels": {"key": ["x" * 200]}})
        assert status == 413
        assert json.loads(body)["limit"] == "ATTENTION_MAX_JSON_BYTES"
        assert json.loads(server.ask("GET", "/v1/devices")[2])["threads"] == 1
        limits = json.loads(server.ask("GET", "/v1/limits")[2])["limits"]
        assert limits["max_json_bytes"]["value"] == 200
        with closing(socket.create_connection(("127.0.0.1", server.port), timeout=10)) as stalled:
            head = b"POST /v1/attention HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n"
            stalled.sendall(head + b"Connection: close\r\n\r\n{")
            assert read_all(stalled).startswith(b"HTTP/1.1 408")
        shape = {"kind": "seeded", "query_length": 16_384, "d_k": 64}
        request = {"inputs": shape, "include": ["diagnostics"]}
        thread, found = in_background(lambda: server.analyse(request))
        time.sleep(0.2)
        assert thread.is_alive()
        code = server.stop()
        thread.join()
        ((status, _, _),) = found
        assert status == 200
        assert code == 0
        assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize(
    ("name", "value"), [("port", "70000"), ("threads", "0"), ("max_groups", "many")]
)
def test_a_wrong_setting_is_told_at_once(monkeypatch, name, value):
    """A setting that makes no sense ends the process before it serves, and is named."""
    monkeypatch.setenv(f"ATTENTION_{name.upper()}", value)
    with pytest.raises(SystemExit) as ended:
        serve()
    assert str(ended.value).startswith(f"ATTENTION_{name.upper()}: ")
