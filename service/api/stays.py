"""What a request holds, from its first byte until its answer has been sent."""

from typing import cast

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service.engine.admission import Admission, Stay

_STATE = "stay"


def stay_of(request: Request) -> Stay:
    """The account of this request."""
    return cast("Stay", request.scope["state"][_STATE])


class Stays:
    """Opens an account for every request, and closes it once the answer is sent or nobody waits."""

    def __init__(self, app: ASGIApp, admission: Admission) -> None:
        self._app, self._admission = app, admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        stay = self._admission.stay()
        scope.setdefault("state", {})[_STATE] = stay
        try:
            await self._app(scope, receive, send)
        finally:
            stay.close()
