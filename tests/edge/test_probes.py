"""What balancers ask: HEAD as well as GET."""

import pytest

from tests.server.raw import exchange, head
from tests.server_process import running
from tests.serving import serving
from tests.waiting import wait_until

PROBES = ["/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready", "/metrics"]
VARYING = {"date", "x-request-id", "content-length"}
"""The length of the metrics varies; that of health is compared by itself."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(tmp_path_factory.mktemp("probes") / "log") as server:
        yield server


@pytest.mark.sockets
@pytest.mark.parametrize("path", PROBES)
def test_head_is_get_without_its_body(server, path):
    """Status and headers are those of GET, and the connection goes on to the next answer."""
    asked = head("HEAD", path, close=False)
    with server.connect(asked) as connection:
        first = connection.recv(65536)
    start, separator, body = first.partition(b"\r\n\r\n")
    assert (separator, body) == (b"\r\n\r\n", b"")
    status, *lines = start.decode().split("\r\n")
    assert status == "HTTP/1.1 200 OK"
    found = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    (answer,) = exchange(server, head("GET", path, "HTTP/1.1"))
    expected = {name: value for name, value in answer.headers.items() if name != "connection"}
    assert found.keys() == expected.keys()
    assert {n: v for n, v in found.items() if n not in VARYING} == {
        n: v for n, v in expected.items() if n not in VARYING
    }
    assert path == "/metrics" or found["content-length"] == expected["content-length"]


@pytest.mark.sockets
def test_head_tells_that_it_is_not_ready(tmp_path):
    """Where GET is 503, HEAD is, and the connection's next answer is whole."""
    with running(tmp_path / "log", drain_delay_s=30) as server:
        server.process.terminate()
        wait_until(lambda: server.ask("GET", "/health/ready")[0] == 503)
        status, headers, body = server.ask("HEAD", "/health/ready")
    assert (status, body) == (503, b"")
    assert headers["retry-after"]


@pytest.mark.anyio
@pytest.mark.parametrize("path", PROBES)
async def test_other_methods_are_told_what_is_allowed(path):
    """Allow has both, the OpenAPI document GET alone."""
    async with serving() as client:
        answer = await client.post(path)
        document = (await client.get("/openapi.json")).json()
    assert answer.status_code == 405
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD"}
    assert list(document["paths"][path]) == ["get"]


@pytest.mark.anyio
async def test_head_is_counted_by_its_route():
    """A probe by HEAD is a request of the same route."""
    async with serving() as client:
        await client.head("/health/live")
        told = (await client.get("/metrics")).text
    series = 'attention_requests_total{method="HEAD",route="/health/live",status="200"} 1.0'
    assert series in told
