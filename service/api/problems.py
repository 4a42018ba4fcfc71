"""Every error becomes application/problem+json (RFC 9457), through one table."""

import logging
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from service import errors
from service.api.observing import CALLER_LEFT, note_problem
from service.api.request_id import HEADER, request_id
from service.limits import bounded
from service.wire.validation import MOST_FAULTS, pointer

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 1
# An answer must not be much larger than what provoked it: 20 faults of 305 bytes took 4.5 KiB.
_MOST_BYTES = 16 * 1024
_ALWAYS_BYTES = 4 * 1024
_DETAIL_BYTES = 1_000
_FAULT_BYTES = 400
_PATH_BYTES = 256

STATUS: dict[type[errors.ServiceError], int] = {
    errors.NotHttp: 400,
    errors.Malformed: 400,
    errors.ProtocolViolation: 400,
    errors.UnknownModel: 404,
    errors.NotAcceptable: 406,
    errors.HeadTimeout: 408,
    errors.BodyTimeout: 408,
    errors.LimitExceeded: 413,
    errors.UnsupportedMedia: 415,
    errors.Invalid: 422,
    errors.ShapeMismatch: 422,
    errors.DtypeMismatch: 422,
    errors.NonFinite: 422,
    errors.InvalidMask: 422,
    errors.UnknownEntry: 422,
    errors.UnavailableDevice: 422,
    errors.Busy: 429,
    errors.HeadTooLarge: 431,
    errors.UnsupportedExtension: 501,
    errors.Draining: 503,
    errors.OutOfMemory: 503,
    errors.TooManyConnections: 503,
    errors.DeadlineExceeded: 504,
}
_HTTP = {
    401: ("unauthorized", "A key is needed"),
    403: ("cross-origin-refused", "Pages of this origin may not ask this"),
    404: ("not-found", "There is no such resource"),
    405: ("method-not-allowed", "The method is not allowed here"),
}
_INTERNAL = ("internal-error", "An unexpected error occurred")
_log = logging.getLogger("service")


def known_problems() -> dict[str, tuple[int, str, str]]:
    """Every problem type: status, title, meaning."""
    table = {
        kind.slug: (status, kind.title, (kind.__doc__ or "").strip())
        for kind, status in STATUS.items()
    }
    table |= {slug: (status, title, title) for status, (slug, title) in _HTTP.items()}
    table[_INTERNAL[0]] = (500, _INTERNAL[1], "A fault of the service, logged with the request id")
    return table


def install(app: FastAPI) -> None:
    """Register the handlers of every layer."""
    app.add_exception_handler(errors.ServiceError, _on_service_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
    app.add_exception_handler(Exception, unexpected)


def problem(
    request: Request,
    status: int,
    slug: str,
    title: str,
    detail: str,
    *,
    faults: tuple[errors.Fault, ...] = (),
    headers: dict[str, str] | None = None,
    **members: int | str,
) -> Response:
    """The response for one error; `members` are further fields of the problem."""
    body = _document(request, status, slug, title, detail, faults, **members)
    sent = {HEADER: request_id(request.scope), **(headers or {})}
    return Response(orjson.dumps(body), status, sent, media_type=MEDIA_TYPE)


def problem_of(request: Request, error: errors.ServiceError) -> dict[str, Any]:
    """The document of an error, for an answer whose status has been sent."""
    faults = error.faults if isinstance(error, errors.Invalid) else ()
    members: dict[str, int | str] = {}
    if isinstance(error, errors.LimitExceeded):
        needed = bounded(error.needed)
        members = {"limit": error.setting, "allowed": error.allowed, "needed": needed}
    status = STATUS[type(error)]
    return _document(request, status, error.slug, error.title, error.detail, faults, **members)


def _document(
    request: Request,
    status: int,
    slug: str,
    title: str,
    detail: str,
    faults: tuple[errors.Fault, ...],
    **members: int | str,
) -> dict[str, Any]:
    detail = _bounded(detail, _DETAIL_BYTES)
    note_problem(request.scope, slug)
    told: dict[str, Any] = {
        "type": f"/problems/{slug}",
        "title": title,
        "status": status,
        "detail": detail,
        "instance": _bounded(request.url.path, _PATH_BYTES),
        "request_id": request_id(request.scope),
        "errors": [],
        "error": detail,
        **members,
    }
    told["errors"] = _fitting(faults, _allowed_bytes(request) - len(orjson.dumps(told)))
    return told


def _allowed_bytes(request: Request) -> int:
    """Of the whole answer: twice the body, within bounds."""
    declared = request.headers.get("content-length", "")
    sent = int(declared) if declared.isascii() and declared.isdigit() and len(declared) < 9 else 0
    return max(_ALWAYS_BYTES, min(_MOST_BYTES, 2 * sent))


def _fitting(faults: tuple[errors.Fault, ...], left: int) -> list[dict[str, str]]:
    """As many of the first faults as there is room for."""
    fitting: list[dict[str, str]] = []
    for fault in faults[:MOST_FAULTS]:
        pointer, detail = _bounded(fault.pointer, _PATH_BYTES), _bounded(fault.detail, _FAULT_BYTES)
        told = {"pointer": pointer, "detail": detail}
        left -= len(orjson.dumps(told)) + 1
        if left < 0:
            break
        fitting.append(told)
    return fitting


def _bounded(text: str, most: int) -> str:
    """Cut to so many bytes, and free of lone surrogates, which have no UTF-8 form."""
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= most:
        return encoded.decode()
    return f"{encoded[: most - 3].decode('utf-8', 'ignore')}…"


def _on_service_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, errors.ServiceError):
        raise TypeError
    return answer_of(request, error)


def answer_of(request: Request, error: errors.ServiceError) -> Response:
    """The answer to what went wrong for a caller."""
    body = problem_of(request, error)
    sent = {HEADER: request_id(request.scope)}
    if body["status"] in (429, 503):
        wait = error.retry_after_s if isinstance(error, errors.Busy) else RETRY_AFTER_S
        sent["Retry-After"] = str(wait)
    return Response(orjson.dumps(body), body["status"], sent, media_type=MEDIA_TYPE)


def _on_validation_error(request: Request, error: Exception) -> Response:
    """Query and path parameters; bodies are validated by the wire."""
    found = error.errors() if isinstance(error, RequestValidationError) else []
    faults = tuple(
        errors.Fault(pointer(tuple(item["loc"])), item["msg"]) for item in found[:MOST_FAULTS]
    )
    detail = f"{faults[0].pointer}: {faults[0].detail}" if faults else "invalid parameters"
    kind = errors.Invalid
    return problem(request, 422, kind.slug, kind.title, detail, faults=faults)


def _on_http_exception(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise TypeError
    slug, title = _HTTP.get(error.status_code, ("http-error", str(error.detail)))
    details = {
        404: "nothing is served at this path; /docs lists what is",
        405: f"this path does not take {request.method[:16]}",
    }
    detail = details.get(error.status_code, str(error.detail))
    headers = dict(error.headers or {})
    return problem(request, error.status_code, slug, title, detail, headers=headers)


def _on_disconnect(request: Request, error: Exception) -> Response:  # noqa: ARG001 - a handler's form
    """Nobody is left to read this."""
    return Response(status_code=CALLER_LEFT)


def unauthorized(request: Request, challenge: str) -> Response:
    """No key, or none that is known; `challenge` says how to send one."""
    detail = "expected the header Authorization: Bearer <key>, with a key that is accepted here"
    slug, title = _HTTP[401]
    headers = {"WWW-Authenticate": challenge}
    return problem(request, 401, slug, title, detail, headers=headers)


def cross_origin(request: Request, detail: str, headers: dict[str, str]) -> Response:
    """A browser asked whether a page may ask, and it may not."""
    slug, title = _HTTP[403]
    return problem(request, 403, slug, title, detail, headers=headers)


def unexpected(request: Request, error: Exception) -> Response:
    """A fault of the service: the log has all of it, the caller nothing."""
    _log.error("unexpected error, request %s", request_id(request.scope), exc_info=error)
    slug, title = _INTERNAL
    detail = "this is a fault of the service; its log has the request id"
    return problem(request, 500, slug, title, detail)
