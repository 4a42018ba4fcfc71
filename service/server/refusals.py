"""A problem as bytes, for what is refused before the application sees it."""

import orjson
from starlette.requests import Request
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from service.api.problems import MEDIA_TYPE, RETRY_AFTER_S, problem_of
from service.api.request_id import HEADER, request_id
from service.api.security_headers import COMPUTED
from service.errors import ServiceError

Headers = list[tuple[bytes, bytes]]


def refusal(error: ServiceError, path: str, headers: Headers, default: Headers) -> bytes:
    """The whole answer, of the same form as the application's; the connection ends with it.

    Args:
        error: what is wrong.
        path: of the request, as far as it was read.
        headers: the request's, as far as they were read.
        default: what the server puts on every answer.
    """
    scope: Scope = {"type": "http", "path": path, "query_string": b"", "headers": headers}
    document = problem_of(Request(scope), error)
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
    return STATUS_LINE[document["status"]] + lines + b"\r\n" + body
