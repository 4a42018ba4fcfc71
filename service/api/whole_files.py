"""The files of the docs pages are sent whole: a range of them is nobody's need."""

from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.paths import is_static

_RANGES = (b"range", b"if-range")


class WholeFiles:
    """Hides the header Range, as RFC 9110 (14.2) lets a server do; a wrong one is no fault then."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and is_static(scope["path"]):
            kept = [(name, value) for name, value in scope["headers"] if name not in _RANGES]
            scope = {**scope, "headers": kept}
        await self._app(scope, receive, send)
