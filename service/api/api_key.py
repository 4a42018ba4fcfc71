"""Authorization: Bearer <key>, where a key is set; refused before the body is read."""

from hashlib import sha256
from hmac import compare_digest

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.paths import METRICS, is_documentation, is_health
from service.api.problems import unauthorized
from service.settings import Settings

_CHALLENGE = 'Bearer realm="attention-analysis"'


def needs_key(path: str, settings: Settings) -> bool:
    """Whether a path is behind the key; unknown ones are."""
    if settings.api_key is None or is_health(path):
        return False
    open_paths = (settings.metrics_open and path == METRICS) or (
        settings.docs_open and is_documentation(path)
    )
    return not open_paths


class ApiKey:
    """Lets through who has one of the keys."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app, self._settings = app, settings
        self._digests = [sha256(key).digest() for key in settings.accepted_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and needs_key(scope["path"], self._settings):
            given = _bearer(scope)
            if given is None or not self._known(given):
                response = unauthorized(Request(scope), _challenge(given))
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _known(self, given: bytes) -> bool:
        """Compared in constant time; equal lengths by hashing, and all keys are looked at."""
        digest = sha256(given).digest()
        return any([compare_digest(digest, known) for known in self._digests])  # noqa: C419 - all


def _bearer(scope: Scope) -> bytes | None:
    """The key as it was sent; None where there is none, or more than one."""
    given = [value for name, value in scope["headers"] if name.lower() == b"authorization"]
    if len(given) != 1:
        return None
    scheme, _, key = given[0].strip().partition(b" ")
    return key.strip() if scheme.lower() == b"bearer" else None


def _challenge(given: bytes | None) -> str:
    return _CHALLENGE if given is None else f'{_CHALLENGE}, error="invalid_token"'
