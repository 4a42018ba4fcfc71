"""GET /metrics."""

from fastapi import APIRouter, Request, Response
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST

from service.api.documentation import TEXT as TEXT_SCHEMA
from service.api.documentation import problems
from service.api.negotiation import answer_encoding
from service.api.paths import METRICS
from service.api.probing import probe
from service.api.state import state_of

router = APIRouter(tags=["health"])
TEXT, OPENMETRICS = "text/plain", "application/openmetrics-text"
_TYPES = {TEXT: CONTENT_TYPE_PLAIN_0_0_4, OPENMETRICS: CONTENT_TYPE_LATEST}
_EXAMPLE = """# HELP attention_queue_length Work that waits for a device
# TYPE attention_queue_length gauge
attention_queue_length 0.0
"""
_EXAMPLES = {TEXT: _EXAMPLE, OPENMETRICS: f"{_EXAMPLE}# EOF\n"}


@probe(
    router,
    METRICS,
    summary="What was counted and measured",
    response_class=Response,
    response_model=None,
    responses={
        200: {
            "description": "Every series, as Prometheus or OpenMetrics text.",
            "content": {
                kind: {**TEXT_SCHEMA, "examples": {"gauge": {"value": example}}}
                for kind, example in _EXAMPLES.items()
            },
        },
        **problems(406, 500),
    },
)
def get_metrics(request: Request) -> Response:
    """Requests by route and status, how long they took, the queue and how long work waited in it,
    batch sizes, computing time by mechanism, bytes in flight, problems by type, callers that left,
    and the memory of torch and the process. Labels have few values, whatever is sent.
    """  # noqa: D205 - shown on the docs page
    # Not async, so on a thread: writing 900 lines takes 6 ms, and 10 as OpenMetrics.
    accept = answer_encoding(request.headers, tuple(_TYPES))
    content = state_of(request).metrics.text(openmetrics=accept == OPENMETRICS)
    return Response(content, headers={"Content-Type": _TYPES[accept]})
