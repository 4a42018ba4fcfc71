"""Which encoding a body has, and which one an answer gets."""

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.requests import Request

from service.encodings import JSON
from service.errors import Invalid, NotAcceptable, UnsupportedMedia

_CURL_DEFAULT = "application/x-www-form-urlencoded"
_MOST_RANGES = 32
TIMEOUT = "X-Request-Timeout-Ms"
_LONGEST_TIMEOUT_DIGITS = 9


def body_encoding(headers: Headers, accepted: Sequence[str]) -> str:
    """The encoding the body claims, of those accepted here; none is taken for JSON.

    Raises:
        UnsupportedMedia: an encoding that is not read here.
    """
    media_type = headers.get("content-type", JSON).partition(";")[0].strip().lower() or JSON
    if media_type == JSON or media_type.endswith("+json"):
        return JSON
    if media_type in accepted:
        return media_type
    hint = ""
    if media_type == _CURL_DEFAULT:
        hint = "; curl sends this type unless -H 'Content-Type: …' names another"
    raise UnsupportedMedia(f"expected Content-Type {' or '.join(accepted)}{hint}")


def answer_encoding(headers: Headers, offered: Sequence[str]) -> str:
    """The encoding the caller likes best, the first of those offered where it does not care.

    Raises:
        NotAcceptable: none of those written here is acceptable.
    """
    given = headers.get("accept", "*/*")
    liked = {name: _liking(name, given) for name in offered}
    best = max(liked, key=lambda name: liked[name])
    if liked[best] <= 0:
        raise NotAcceptable(f"answers are written as {' or '.join(offered)}")
    return best


def refuse_unknown_parameters(request: Request, known: set[str]) -> None:
    """A mistyped query parameter must not silently mean the default.

    Raises:
        Invalid: a parameter that means nothing here.
    """
    if request.query_params.keys() - known:
        raise Invalid(f"unknown query parameter; known are {', '.join(sorted(known))}")


def asked_timeout_s(headers: Headers) -> float | None:
    """How long the caller waits for an answer, where it says so.

    Raises:
        Invalid: not a positive integer of milliseconds.
    """
    given = headers.get(TIMEOUT)
    if given is None:
        return None
    if given.isascii() and given.isdigit() and len(given) <= _LONGEST_TIMEOUT_DIGITS and int(given):
        return int(given) / 1e3
    raise Invalid(
        f"the header {TIMEOUT} must be an integer of milliseconds, 1 … "
        f"{10**_LONGEST_TIMEOUT_DIGITS - 1:,}"
    )


def _liking(media_type: str, accept: str) -> float:
    """The quality of the most specific range that matches (RFC 9110, 12.5.1)."""
    best = (-1, 0.0)
    for item in accept.split(",")[:_MOST_RANGES]:
        name, *parameters = (piece.strip().lower() for piece in item.split(";"))
        kind = media_type.partition("/")[0]
        specific = {media_type: 2, f"{kind}/*": 1, "*/*": 0}.get(name or "*/*", -1)
        if specific > best[0]:
            best = (specific, quality(parameters))
    return best[1]


def quality(parameters: Sequence[str]) -> float:
    """The weight q among the parameters of a preference (RFC 9110, 12.4.2)."""
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return min(1.0, max(0.0, float(parameter[2:])))
            except ValueError:
                return 0.0
    return 1.0
