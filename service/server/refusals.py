"""A problem as bytes, for what is refused before the application sees it."""

import orjson
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from service.api.observing import Refusal, tell_refusal
from service.api.problems import MEDIA_TYPE, RETRY_AFTER_S, problem_of
from service.api.request_id import HEADER, request_id
from service.api.security_headers import COMPUTED
from service.api.trace_context import trace_fields
from service.errors import ServiceError
from service.logs import bound
from service.metrics import Metrics

Fields = list[tuple[bytes, bytes]]


def refusal(error: ServiceError, scope: Scope, default: Fields) -> tuple[bytes, Refusal]:
    """The whole answer, of the same form as the application's, and what is to be told of it.

    The connection ends with it.

    Args:
        error: what is wrong.
        scope: the request, as far as it was read.
        default: what the server puts on every answer.
    """
    document = problem_of(Request({**scope, "path": scope["path"] or "/"}), error)
    body = orjson.dumps(document)
    sent = [
        *default,
        *COMPUTED,
        (b"content-type", MEDIA_TYPE.encode()),
        (b"content-length", b"%d" % len(body)),
        (HEADER.lower().encode(), request_id(scope).encode()),
        (b"connection", b"close"),
    ]
    if document["status"] == 503:
        sent.append((b"retry-after", str(RETRY_AFTER_S).encode()))
    lines = b"".join(b"%s: %s\r\n" % header for header in sent)
    told = Refusal(document["status"], error.slug, document["detail"], len(body))
    return STATUS_LINE[told.status] + lines + b"\r\n" + body, told


def tell(scope: Scope, told: Refusal, began: float, metrics: Metrics) -> None:
    """Count it, and log it with its id, as the application does where it sees the request."""
    with bound({"request_id": request_id(scope), **trace_fields(Headers(scope=scope))}):
        tell_refusal(scope, told, began, metrics)
