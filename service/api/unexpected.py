"""Whatever no handler expects: answered and logged once, inside all that an answer passes through.

The framework's own place for this is outside them: such answers would be neither counted nor
have their headers, and the server would log the same traceback again.
"""

from opentelemetry.trace import get_current_span
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import unexpected


class Unexpected:
    """Innermost: only the routes and their handlers are within."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; where an answer has begun the server ends the connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def send_noted(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, send_noted)
        except Exception as error:  # noqa: BLE001 - it is for all others
            get_current_span().record_exception(error)
            response = unexpected(Request(scope), error)
            if not begun:
                await response(scope, receive, send)
