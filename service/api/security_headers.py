"""What every answer tells a browser: trust nothing here but what the docs pages need."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.paths import is_static

_ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}


def _raw(caching: str) -> list[tuple[bytes, bytes]]:
    headers = {**_ALWAYS, "Cache-Control": caching}
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


COMPUTED = _raw("no-store")
"""On all that is made for one request, refusals too."""
# They change with the package that carries them, under the same names: ask, but by their ETag.
_FILE = _raw("no-cache")


class SecurityHeaders:
    """Adds what an answer does not say itself."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        added = _FILE if is_static(scope["path"]) else COMPUTED

        async def send_secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = list(message.get("headers", ()))
                said = {name.lower() for name, _ in own}
                message["headers"] = own + [header for header in added if header[0] not in said]
            await send(message)

        await self._app(scope, receive, send_secured)
