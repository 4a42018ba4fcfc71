import http.client
import json
import logging
import re
import socket
import threading
import time
from contextlib import closing

import pytest

from service.logs import FIELDS
from tests.server_process import running
from tests.serving import serving

KEY = "key-of-the-house-0123"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def lines_of(server, logger=None):
    """Every line of the log as JSON: nothing else may be written."""
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    for line in lines:
        assert {"time", "level", "logger", "message"} <= line.keys()
    return [line for line in lines if logger in (None, line["logger"])]


def line_of(server, request_id):
    """The access line of one request: there is exactly one."""
    for _ in range(100):
        found = [line for line in lines_of(server, "service.access")
                 if line["request_id"] == request_id]  # fmt: skip
        if found:
            (line,) = found
            return line
        time.sleep(0.05)
    raise AssertionError(f"no line for {request_id}: {server.log.read_text()}")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    log = tmp_path_factory.mktemp("access") / "log"
    with running(log, log_level="debug", api_key=KEY) as server:
        yield server


@pytest.mark.sockets
def test_a_request_is_one_line(server):
    """Who asked what, how it went, how long it waited and took, and the bytes of each way."""
    body = json.dumps({"include": []}).encode()
    answer = server.ask(
        "POST", "/v1/attention?request=%7B%7D", body, x_request_id="first",
        content_type="application/json", authorization=f"Bearer {KEY}",
    )  # fmt: skip
    assert answer[0] == 422  # the parameter goes with a file
    _, headers, content = server.ask(
        "POST", "/v1/attention", body, x_request_id="second", authorization=f"Bearer {KEY}"
    )
    line = line_of(server, "second")
    assert line["level"] == "info"
    assert line["message"] == "POST /v1/attention 200"
    told = {
        "method": "POST",
        "route": "/v1/attention",
        "path": "/v1/attention",
        "status": 200,
        "request_bytes": len(body),
        "response_bytes": len(content),
        "client": "127.0.0.1",
    }
    assert told.items() <= line.items()
    assert line["response_bytes"] == int(headers["content-length"])
    timing = json.loads(content)["timing_ms"]
    assert line["compute_ms"] == pytest.approx(timing["compute"], abs=0.002)
    assert line["queue_ms"] == pytest.approx(timing["queue"], abs=0.002)
    assert line["duration_ms"] >= line["compute_ms"] + line["queue_ms"]
    assert line_of(server, "first")["problem"] == "invalid-request"


@pytest.mark.sockets
def test_no_secret_is_logged(server):
    """Neither the key, nor query strings, nor headers, nor bodies come into the log."""
    document = {"labels": {"query": ["canary-in-body"]}}
    server.ask(
        "POST", "/v1/attention?api_key=canary-in-query", json.dumps(document).encode(),
        authorization=f"Bearer {KEY}", cookie="canary-in-cookie", x_request_id="quiet",
    )  # fmt: skip
    server.ask("GET", "/v1/limits", authorization="Bearer canary-in-key", x_request_id="refused")
    assert line_of(server, "quiet")["status"] == 422
    assert line_of(server, "refused")["problem"] == "unauthorized"
    text = server.log.read_text()
    assert "canary" not in text
    assert KEY not in text


@pytest.mark.sockets
def test_the_key_does_not_stop_the_warm_up(server):
    """The service's own first request has the key: it is computed, not refused."""
    line = line_of(server, "warm-up")
    assert (line["status"], line["route"]) == (200, "/v1/attention")
    assert line["compute_ms"] > 0


@pytest.mark.sockets
def test_what_the_socket_refuses_is_counted_and_locked_down(server):
    """A refusal before the application is in the log and the metrics, and has the headers."""
    with closing(socket.create_connection(("127.0.0.1", server.port), timeout=10)) as connection:
        connection.sendall(b"NONSENSE\r\n\r\n")
        head = connection.makefile("rb").read().decode().lower()
    assert head.startswith("http/1.1 400")
    assert "x-content-type-options: nosniff" in head
    assert "content-security-policy: default-src 'none'" in head
    slug = head.partition('"type":"/problems/')[2].partition('"')[0]
    metrics = server.ask("GET", "/metrics")[2].decode()
    assert f'attention_rejections_total{{reason="{slug}"}} 1.0' in metrics
    series = 'attention_requests_total{method="other",route="unmatched",status="400"} 1.0'
    assert series in metrics
    name = head.partition("x-request-id: ")[2].partition("\r\n")[0]
    line = line_of(server, name)
    assert line["message"] == "- unmatched 400"
    assert "Invalid method" in line["detail"]
    assert not {"method", "path"} & line.keys()


def refused(server, *pieces):
    """What one connection is answered, piece after piece of a request."""
    with closing(socket.create_connection(("127.0.0.1", server.port), timeout=10)) as connection:
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(0.1)
        return connection.makefile("rb").read()


@pytest.mark.sockets
@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/v1/%0a?canary#canary", "/v1/%0a"),
        (b"/health/live#canary", "/health/live"),
        (b"/" + b"x" * 999, "/" + "x" * 255),
        (b"http://canary:canary@x/", None),
    ],
    ids=["query", "probe", "long", "with a password"],
)
def test_a_refused_head_has_a_line_of_the_same_form(server, target, path):
    """As far as it was read: method, path without query and bounded, id, trace, status, client."""
    name = f"head-{len(target)}"
    head = [b"PUT " + target + b" HTTP/1.1", b"X-Request-ID: " + name.encode(),
            f"traceparent: 00-{TRACE}-{PARENT}-01".encode(), b"Host: x", b"Host: y"]  # fmt: skip
    answer = refused(server, b"\r\n".join([*head, b"", b""]))
    line = line_of(server, name)
    assert line["level"] == "info"
    assert line["message"] == "PUT unmatched 400"
    assert line.get("path") == path
    told = {
        "method": "PUT",
        "route": "unmatched",
        "status": 400,
        "problem": "malformed-request",
        "detail": "expected one header Host, found 2",
        "trace_id": TRACE,
        "request_bytes": 0,
        "response_bytes": len(answer.partition(b"\r\n\r\n")[2]),
        "client": "127.0.0.1",
    }
    assert told.items() <= line.items()
    assert 0 <= line["duration_ms"] < 1000
    assert b"canary" not in server.log.read_bytes()


@pytest.mark.sockets
@pytest.mark.parametrize("at_once", [True, False])
def test_a_request_that_breaks_off_has_one_line(server, at_once):
    """A body that cannot be read is 400 on the line too: its caller has not left."""
    name = f"broken-{at_once}"
    head = f"POST /v1/attention HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
    head += f"X-Request-ID: {name}\r\nTransfer-Encoding: chunked\r\n\r\n"
    pieces = [head.encode(), b"zz\r\n"]
    answer = refused(server, *([b"".join(pieces)] if at_once else pieces))
    assert answer.startswith(b"HTTP/1.1 400")
    line = line_of(server, name)
    assert (line["status"], line["problem"]) == (400, "malformed-request")
    assert "chunk size" in line["detail"]
    assert line["route"] == "/v1/attention"
    assert line["response_bytes"] == len(answer.partition(b"\r\n\r\n")[2])
    assert "cancelled" not in line


@pytest.mark.sockets
def test_what_comes_after_a_request_is_not_told_as_that_request(server):
    """A refusal between two requests has an id of its own, and no path."""
    first = b"GET /health/live HTTP/1.1\r\nHost: x\r\nX-Request-ID: before\r\n\r\n"
    answer = refused(server, first, b"\r\n" * 50_000)
    name = answer.lower().rpartition(b"x-request-id: ")[2].partition(b"\r\n")[0].decode()
    assert name != "before"
    line = line_of(server, name)
    assert (line["status"], line["problem"]) == (431, "head-too-large")
    assert not {"method", "path"} & line.keys()


@pytest.mark.sockets
def test_probes_are_for_debugging(server):
    """Health and metrics are asked every few seconds: their lines are of level debug."""
    for path in ("/health/live", "/health/ready", "/v2/health/ready", "/metrics"):
        name = path.replace("/", "-").strip("-")
        assert server.ask("GET", path, x_request_id=name)[0] == 200
        assert line_of(server, name)["level"] == "debug"


@pytest.mark.sockets
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (f"00-{TRACE}-{PARENT}-01", (TRACE, PARENT)),
        (f"00-{TRACE}-{'0' * 16}-01", (None, None)),
        ("nonsense", (None, None)),
    ],
    ids=["valid", "zero", "nonsense"],
)
def test_the_callers_trace_is_on_the_line(server, given, expected):
    """A valid traceparent is on the line, a malformed one is ignored; the id stays its own."""
    name = f"trace-{given[-4:]}-{expected[0] is None}"
    status, headers, _ = server.ask("GET", "/health/live", traceparent=given, x_request_id=name)
    assert status == 200
    assert headers["x-request-id"] == name
    assert not {"traceparent", "traceresponse"} & headers.keys()
    line = line_of(server, name)
    assert (line.get("trace_id"), line.get("parent_id")) == expected


@pytest.mark.sockets
@pytest.mark.parametrize(
    "target",
    ['/%0a{"level":"error","message":"forged"}', "/%0d%0aforged", "/%1b[2Jforged", "/%e2%80%a8x",
     "/%ff%fe", "/%00", "/" + "x" * 5000],
)  # fmt: skip
def test_no_path_can_forge_a_line(server, target):
    """Newlines and control characters of a path stay inside their field, which is bounded."""
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)) as connection:
        connection.request("GET", target, headers={"Authorization": f"Bearer {KEY}"})
        answer = connection.getresponse()
        assert answer.status == 404
        name = answer.headers["x-request-id"]
    line = line_of(server, name)
    assert len(line["path"]) <= 256
    assert line["route"] == "unmatched"
    assert "forged" not in {line["message"] for line in lines_of(server)}
    assert server.log.read_text().isascii()


@pytest.mark.sockets
@pytest.mark.parametrize("given", ['x" level="error', "a b", "é", "x" * 129, "{}"])
def test_no_request_id_can_forge_a_line(server, given):
    """An id that is not sane is replaced, on the answer and in the log."""
    request = b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Request-ID: "
    with closing(socket.create_connection(("127.0.0.1", server.port), timeout=10)) as connection:
        connection.sendall(request + given.encode("latin-1") + b"\r\n\r\n")
        head = connection.makefile("rb").read().decode("latin-1").lower()
    name = head.partition("x-request-id: ")[2].partition("\r\n")[0]
    assert len(name) == 32
    assert line_of(server, name)["status"] == 200
    assert given not in {line.get("request_id") for line in lines_of(server)}


@pytest.mark.sockets
def test_a_caller_that_leaves_is_on_its_line(server):
    """Who closes the connection while its analysis runs is logged as having left."""
    body = b'{"inputs":{"kind":"seeded","query_length":65536},"include":["diagnostics"]}'
    head = (
        f"POST /v1/attention HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
        f"X-Request-ID: left\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with closing(socket.create_connection(("127.0.0.1", server.port), timeout=10)) as connection:
        connection.sendall(head.encode() + body)
        time.sleep(0.3)
    line = line_of(server, "left")
    assert (line["status"], line["cancelled"]) == (499, True)


@pytest.mark.sockets
def test_the_life_of_the_process_is_logged_in_the_same_form(tmp_path):
    """From the first to the last line, the server's own and those of many at once: all JSON."""
    with running(tmp_path / "log", log_format="json") as server:
        threads = [threading.Thread(target=server.analyse, args=({"include": []},))
                   for _ in range(8)]  # fmt: skip
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        server.stop()
        lines = lines_of(server)
    served = [line["request_id"] for line in lines if line["logger"] == "service.access"]
    assert len(served) == 9
    assert served[0] == "warm-up"
    assert {line["logger"] for line in lines} == {"uvicorn.error", "service", "service.access"}
    told, started = lines[:2]
    assert re.match("the (native|eager) pass computes, ", told["message"])
    assert "Started server process" in started["message"]
    assert "Finished server process" in lines[-1]["message"]


@pytest.mark.sockets
def test_text_is_for_people(tmp_path):
    """Where text is asked for, a request is one readable line."""
    with running(tmp_path / "log", log_format="text") as server:
        server.ask("GET", "/v1/limits", x_request_id="readable")
        server.stop()
        (line,) = [line for line in server.log.read_text().splitlines() if "readable" in line]
    assert "info     service.access: GET /v1/limits 200 request_id=readable" in line
    assert "duration_ms=" in line


@pytest.mark.anyio
async def test_a_fault_has_its_traceback_on_a_line_with_its_id(monkeypatch, caplog):
    """The line of a 500 has the traceback, and the same id as the access line and the answer."""
    monkeypatch.setattr("service.api.attention.prepare", lambda *_, **__: 1 / 0)
    with caplog.at_level(logging.INFO, "service"):
        async with serving() as client:
            answer = await client.post("/v1/attention", json={})
    (fault,) = [r for r in caplog.records if r.exc_info]
    assert fault.exc_info[0] is ZeroDivisionError
    assert answer.headers["x-request-id"] in fault.getMessage()
    (access,) = [r for r in caplog.records if r.name == "service.access"]
    assert getattr(access, FIELDS)["problem"] == "internal-error"
