import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from service.api.telemetry import TelemetryUnavailable
from service.app import create_app
from service.settings import Settings
from tests.server_process import running
from tests.serving import serving

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
JOINED = {"traceparent": f"00-{TRACE}-{PARENT}-01"}


@pytest.fixture(scope="module")
def exporter():
    """Where all spans of this process go; a process has one provider for good."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


def served(exporter):
    """The spans of requests; within them there are others, of the steps."""
    return [s for s in exporter.get_finished_spans() if s.kind is trace.SpanKind.SERVER]


@pytest.fixture
def spans(exporter, monkeypatch):
    """The exporter, empty, and no collector to send to."""
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    exporter.clear()
    return exporter


@pytest.mark.anyio
async def test_a_request_is_a_span_that_joins_its_callers_trace(spans):
    """The span has the route's template and the status, and the caller's span as its parent."""
    async with serving(telemetry=True) as client:
        answer = await client.get("/problems/busy?secret=1", headers=JOINED)
    (span,) = served(spans)
    assert span.name == "GET /problems/{slug}"
    assert span.attributes["http.route"] == "/problems/{slug}"
    assert span.attributes["http.response.status_code"] == 200
    assert f"{span.context.trace_id:032x}" == TRACE
    assert f"{span.parent.span_id:016x}" == PARENT
    assert answer.headers["traceresponse"] == f"00-{TRACE}-{span.context.span_id:016x}-01"


@pytest.mark.anyio
async def test_without_a_caller_a_trace_begins_here(spans):
    """A malformed traceparent is ignored: the span is a root, and the answer names it."""
    async with serving(telemetry=True) as client:
        answer = await client.get("/v1/limits", headers={"traceparent": "nonsense"})
    (span,) = served(spans)
    assert span.parent is None
    assert f"{span.context.trace_id:032x}" == answer.headers["traceresponse"].split("-")[1]


@pytest.mark.anyio
async def test_a_fault_is_on_its_span(spans, monkeypatch):
    """A 500 is an error of its span, with the exception that caused it."""
    monkeypatch.setattr("service.api.attention.prepare", lambda *_, **__: 1 / 0)
    async with serving(telemetry=True) as client:
        assert (await client.post("/v1/attention", json={})).status_code == 500
    (span,) = served(spans)
    assert span.status.status_code is trace.StatusCode.ERROR
    (event,) = span.events
    assert event.attributes["exception.type"] == "ZeroDivisionError"


@pytest.mark.anyio
async def test_refusals_of_the_edge_are_spans_too(spans):
    """A request without the key is seen; its key is in no attribute."""
    async with serving(telemetry=True, api_key="0123456789abcdef") as client:
        headers = {"Authorization": "Bearer canary-0123456789"}
        assert (await client.get("/v1/limits", headers=headers)).status_code == 401
    (span,) = served(spans)
    assert span.attributes["http.response.status_code"] == 401
    assert "canary" not in span.to_json()


@pytest.mark.anyio
async def test_probes_are_no_spans(spans):
    """Health and metrics, asked every few seconds, are left out."""
    async with serving(telemetry=True) as client:
        for path in ("/health/live", "/health/ready", "/metrics"):
            answer = await client.get(path, headers=JOINED)
            assert answer.status_code == 200
            assert "traceresponse" not in answer.headers
    assert served(spans) == []


@pytest.mark.anyio
async def test_off_means_off(spans):
    """By default there are no spans, even where the process has a provider."""
    async with serving() as client:
        answer = await client.get("/v1/limits", headers=JOINED)
    assert spans.get_finished_spans() == ()
    assert "traceresponse" not in answer.headers


def test_a_missing_extra_is_told_at_the_start(monkeypatch):
    """Telemetry without what it needs ends the start, and says what to install."""
    for name in [name for name in sys.modules if name.startswith("opentelemetry.exporter")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("service.api.telemetry._EXPORTER", "opentelemetry.exporter.no.such")
    with pytest.raises(TelemetryUnavailable, match=r"\.\[otel\]") as error:
        create_app(Settings(telemetry=True))
    assert "ATTENTION_TELEMETRY" in str(error.value)
    create_app(Settings())


def test_a_missing_collector_is_told(spans, caplog):
    """Telemetry that nobody collects is worth a warning."""
    create_app(Settings(telemetry=True))
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in caplog.text


@pytest.fixture
def collector():
    """A collector on this machine, and what it was sent: (path, body)."""
    sent = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self):
            sent.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            """Quiet."""

    server = HTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", sent
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.sockets
def test_a_collector_gets_the_spans_of_a_real_server(collector, tmp_path, monkeypatch):
    """One setting and OpenTelemetry's own variables: spans arrive, named as this service, and the
    log has their ids.
    """  # noqa: D205 - one sentence
    endpoint, sent = collector
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with running(tmp_path / "log", telemetry="true") as server:
        status, headers, _ = server.analyse({"include": []}, **JOINED)
        assert status == 200
        server.stop()
        log = [json.loads(line) for line in server.log.read_text().splitlines()]
    assert {path for path, _ in sent} >= {"/v1/traces", "/v1/metrics"}
    requests = [ExportTraceServiceRequest.FromString(b) for p, b in sent if p == "/v1/traces"]
    resources = [resource for request in requests for resource in request.resource_spans]
    names = {a.value.string_value for r in resources for a in r.resource.attributes
             if a.key == "service.name"}  # fmt: skip
    assert names == {"attention-analysis"}
    found = [span for r in resources for scope in r.scope_spans for span in scope.spans]
    joined = [span for span in found if span.trace_id.hex() == TRACE]
    (span,) = [span for span in joined if span.name == "POST /v1/attention"]
    assert span.parent_span_id.hex() == PARENT
    assert headers["traceresponse"] == f"00-{TRACE}-{span.span_id.hex()}-01"
    (line,) = [line for line in log if line.get("span_id") == span.span_id.hex()]
    assert (line["logger"], line["trace_id"]) == ("service.access", TRACE)
