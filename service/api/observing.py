"""What is told of every request: its measurements, one line in the log, and Server-Timing."""

import asyncio
import logging
from dataclasses import dataclass
from ipaddress import ip_address
from time import perf_counter
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.paths import DOCUMENT, STATIC, is_probe, is_static
from service.engine.computer import Timed
from service.logs import FIELDS
from service.metrics import Metrics

HEADER = "Server-Timing"
CALLER_LEFT = 499
"""No status of HTTP, but what proxies log where nobody is left to read one."""
UNMATCHED = "unmatched"
_STATE, _REFUSAL = "observation", "refusal"
_PATH_LENGTH, _METHOD_LENGTH = 256, 16
_log = logging.getLogger("service.access")


@dataclass(slots=True)
class Observation:
    """One request while it is served."""

    began: float
    status: int | None = None
    problem: str | None = None
    detail: str | None = None
    queue_ms: float | None = None
    compute_ms: float | None = None
    request_bytes: int = 0
    response_bytes: int = 0
    answered: bool = False
    left: bool = False

    @property
    def elapsed_ms(self) -> float:
        """Since the request arrived."""
        return (perf_counter() - self.began) * 1e3

    @property
    def final_status(self) -> int:
        """The one that was sent, or says why none was."""
        return self.status or (CALLER_LEFT if self.left else 500)


@dataclass(frozen=True, slots=True)
class Refusal:
    """What the server answers itself: the request cannot be read, or not to its end."""

    status: int
    problem: str
    detail: str
    response_bytes: int

    def put_on(self, seen: Observation) -> None:
        """This was the answer; that no other was sent is not the caller's leaving."""
        seen.status, seen.problem, seen.detail = self.status, self.problem, self.detail
        seen.response_bytes, seen.left = self.response_bytes, False


def note_problem(scope: Scope, slug: str) -> None:
    """A problem was told to the caller, by a status or within an answer."""
    if (seen := _of(scope)) is not None:
        seen.problem = slug


def note_timing(scope: Scope, timed: Timed[Any]) -> None:
    """A computation for this request ended; several add up."""
    if (seen := _of(scope)) is not None:
        seen.queue_ms = (seen.queue_ms or 0.0) + timed.queue_ms
        seen.compute_ms = (seen.compute_ms or 0.0) + timed.compute_ms


def note_refusal(scope: Scope, refusal: Refusal) -> None:
    """The server answered a request that the application has begun to serve."""
    scope.setdefault("state", {})[_REFUSAL] = refusal


def tell_refusal(scope: Scope, refusal: Refusal, began: float, metrics: Metrics) -> None:
    """The same of a request that the application never sees; without a method where none came."""
    seen = Observation(began)
    refusal.put_on(seen)
    _tell(scope, seen, UNMATCHED, metrics)


def _of(scope: Scope) -> Observation | None:
    """None for what is refused before any middleware runs."""
    found: Observation | None = scope.get("state", {}).get(_STATE)
    return found


class Observing:
    """Sees every request from its head to the end of its answer."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        seen = Observation(perf_counter())
        scope.setdefault("state", {})[_STATE] = seen

        async def receive_seen() -> Message:
            message = await receive()
            if message["type"] == "http.disconnect":
                seen.left = seen.left or not seen.answered
            else:
                seen.request_bytes += len(message.get("body", b""))
            return message

        async def send_seen(message: Message) -> None:
            _note_sent(seen, message)
            await send(message)

        try:
            await self._app(scope, receive_seen, send_seen)
        except asyncio.CancelledError:
            seen.left = seen.left or not seen.answered
            raise
        finally:
            if (refusal := scope["state"].get(_REFUSAL)) is not None:
                refusal.put_on(seen)
            _tell(scope, seen, _route(scope), self._metrics)


def _tell(scope: Scope, seen: Observation, route: str, metrics: Metrics) -> None:
    method, elapsed_ms = scope.get("method", ""), seen.elapsed_ms
    metrics.request_ended(route, method, seen.final_status, elapsed_ms / 1e3)
    if seen.problem is not None:
        metrics.rejected(seen.problem)
    if seen.left:
        metrics.cancelled()
    is_quiet = is_probe(scope["path"]) and seen.detail is None
    level = logging.DEBUG if is_quiet else logging.INFO
    if _log.isEnabledFor(level):
        method = method[:_METHOD_LENGTH]
        fields = _fields(scope, seen, route, method, elapsed_ms)
        said = "%s %s %d", method or "-", route, seen.final_status
        _log.log(level, *said, extra={FIELDS: fields})


def _note_sent(seen: Observation, message: Message) -> None:
    if message["type"] == "http.response.start":
        seen.status = message["status"]
        if seen.compute_ms is not None and seen.status < 400:
            MutableHeaders(scope=message)[HEADER] = _server_timing(seen)
    elif message["type"] == "http.response.body":
        seen.response_bytes += len(message.get("body", b""))
        seen.answered = not message.get("more_body", False)


def _server_timing(seen: Observation) -> str:
    durations = {"queue": seen.queue_ms, "compute": seen.compute_ms, "total": seen.elapsed_ms}
    return ", ".join(f"{name};dur={ms:.3f}" for name, ms in durations.items())


def _route(scope: Scope) -> str:
    """The template of the route that was chosen: as many as there are routes."""
    template = getattr(scope.get("route"), "path_format", None)
    if template is not None:
        return str(template)
    if scope["path"] == DOCUMENT:
        return DOCUMENT
    return f"{STATIC}/{{path}}" if is_static(scope["path"]) else UNMATCHED


def _fields(
    scope: Scope, seen: Observation, route: str, method: str, elapsed_ms: float
) -> dict[str, Any]:
    """Neither query nor headers nor bodies: they can hold keys and data."""
    told = {
        "method": method or None,
        "route": route,
        "path": scope["path"][:_PATH_LENGTH] or None,
        "status": seen.final_status,
        "duration_ms": round(elapsed_ms, 3),
        "queue_ms": None if seen.queue_ms is None else round(seen.queue_ms, 3),
        "compute_ms": None if seen.compute_ms is None else round(seen.compute_ms, 3),
        "request_bytes": seen.request_bytes,
        "response_bytes": seen.response_bytes,
        "problem": seen.problem,
        "detail": seen.detail,
        "cancelled": seen.left or None,
        "client": _client(scope),
    }
    return {name: value for name, value in told.items() if value is not None}


def _client(scope: Scope) -> str | None:
    """An address: what a proxy passes on can be any text, and so can the zone of an address."""
    host = (scope.get("client") or ("",))[0]
    try:
        return str(ip_address(host.partition("%")[0]))
    except ValueError:
        return None
