"""X-Request-ID: taken where it is sane, made where it is not; on every answer and log line."""

import re
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.trace_context import own_span, trace_fields, trace_response
from service.logs import bound

HEADER = "X-Request-ID"
TRACE_HEADER = "traceresponse"
_SANE = re.compile(r"[A-Za-z0-9._\-]{1,128}")


def request_id(scope: Scope) -> str:
    """The id of this request, made on first sight."""
    state = scope.setdefault("state", {})
    if "request_id" not in state:
        given = Headers(scope=scope).get(HEADER, "")
        state["request_id"] = given if _SANE.fullmatch(given) else uuid4().hex
    return str(state["request_id"])


class RequestId:
    """Puts the id on the answer, and with the trace on every line that is logged meanwhile."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        identity, span = request_id(scope), own_span()

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault(HEADER, identity)
                if span is not None:
                    headers[TRACE_HEADER] = trace_response(span)
            await send(message)

        with bound({"request_id": identity, **trace_fields(Headers(scope=scope))}):
            await self._app(scope, receive, send_with_id)
