"""CORS, off unless origins are named: which pages of other origins may read the answers."""

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.observing import HEADER as SERVER_TIMING
from service.api.problems import cross_origin
from service.api.request_id import HEADER as REQUEST_ID
from service.api.request_id import TRACE_HEADER

_ACCEPTED = (
    "Authorization",
    "Content-Encoding",
    "Inference-Header-Content-Length",
    "traceparent",
    "tracestate",
    REQUEST_ID,
    "X-Request-Timeout-Ms",
)
_EXPOSED = (
    "Inference-Header-Content-Length",
    "Retry-After",
    SERVER_TIMING,
    TRACE_HEADER,
    "WWW-Authenticate",
    REQUEST_ID,
)


class CrossOrigin(CORSMiddleware):
    """Starlette's, with this service's headers, and a problem where a preflight is refused.

    Credentials are never allowed: the key travels in a header that a page has to set itself.
    """

    def __init__(self, app: ASGIApp, origins: tuple[str, ...]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=("GET", "HEAD", "POST"),
            allow_headers=_ACCEPTED,
            expose_headers=_EXPOSED,
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """As Starlette answers it; a refusal in this service's form."""
        answer = super().preflight_response(request_headers)
        return answer if answer.status_code < 400 else _Refused(answer)


class _Refused(Response):
    def __init__(self, refusal: Response) -> None:
        super().__init__()
        self._detail = bytes(refusal.body).decode().lower()
        self._vary = refusal.headers["Vary"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer; the problem needs the request, which is known only here."""
        response = cross_origin(Request(scope), self._detail, {"Vary": self._vary})
        await response(scope, receive, send)
