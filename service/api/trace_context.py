"""The trace a request belongs to: of the service's own span, or as the caller's `traceparent` says.

W3C Trace Context: what is malformed is ignored, never refused.
"""

import re

from opentelemetry.trace import SpanContext, get_current_span
from starlette.datastructures import Headers

_TRACEPARENT = re.compile(
    r"(?!ff)(?P<version>[0-9a-f]{2})-(?!0{32})(?P<trace_id>[0-9a-f]{32})"
    r"-(?!0{16})(?P<parent_id>[0-9a-f]{16})-[0-9a-f]{2}(?P<more>-.*)?"
)


def trace_fields(headers: Headers) -> dict[str, str]:
    """For the log: `trace_id`, and the service's own `span_id` or the caller's as `parent_id`."""
    own = own_span()
    if own is not None:
        return {"trace_id": f"{own.trace_id:032x}", "span_id": f"{own.span_id:016x}"}
    return _callers(headers)


def own_span() -> SpanContext | None:
    """The span that serves this request, where telemetry makes one."""
    context = get_current_span().get_span_context()
    return context if context.is_valid else None


def trace_response(own: SpanContext) -> str:
    """The span as the header `traceresponse` tells it."""
    return f"00-{own.trace_id:032x}-{own.span_id:016x}-{own.trace_flags:02x}"


def _callers(headers: Headers) -> dict[str, str]:
    """Of a later version, what it shares with this one is read; version 00 has nothing more."""
    given = headers.getlist("traceparent")
    found = _TRACEPARENT.fullmatch(given[0].strip(" \t")) if len(given) == 1 else None
    if found is None or (found["version"] == "00" and found["more"] is not None):
        return {}
    return {"trace_id": found["trace_id"], "parent_id": found["parent_id"]}
