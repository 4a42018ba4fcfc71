"""Content codings (RFC 9110, 8.4.1): how a body is compressed, and how an answer may be."""

from starlette.datastructures import Headers

from service.api.negotiation import quality
from service.errors import UnsupportedMedia
from service.wire.compression import CODINGS, Coding

_ALIASES = {"x-gzip": "gzip"}
_MOST_PREFERENCES = 32
# Whoever names a coding likes it better than none; whoever names none gets none.
_UNNAMED_IDENTITY = 1e-6


def refuse_content_coding(headers: Headers) -> None:
    """For the routes whose bodies are read as they are.

    Raises:
        UnsupportedMedia: the body is compressed.
    """
    if _given(headers) not in ("", "identity"):
        raise UnsupportedMedia("expected no Content-Encoding: bodies are read uncompressed")


def body_coding(headers: Headers) -> Coding | None:
    """How the body is compressed, once; None where it is not.

    Raises:
        UnsupportedMedia: a coding that is not read here, or more than one.
    """
    given = _given(headers)
    if given in ("", "identity"):
        return None
    name = _ALIASES.get(given, given)
    for coding in CODINGS:
        if name == coding:
            return coding
    raise UnsupportedMedia(f"expected Content-Encoding {', '.join(CODINGS)} or identity, once")


def answer_coding(headers: Headers) -> Coding | None:
    """The coding that Accept-Encoding likes best, gzip of equals; None where it likes none better.

    Where nothing that is written here is acceptable, the answer is not compressed either
    (RFC 9110, 12.5.3).
    """
    liked = _preferences(", ".join(headers.getlist("accept-encoding")))
    others = liked.get("*", 0.0)
    plain = liked.get("identity", others or _UNNAMED_IDENTITY)
    best = max(CODINGS, key=lambda coding: liked.get(coding, others))
    return best if liked.get(best, others) > plain else None


def _given(headers: Headers) -> str:
    return ", ".join(headers.getlist("content-encoding")).strip().lower()


def _preferences(accept: str) -> dict[str, float]:
    """The quality of each coding that is named."""
    found: dict[str, float] = {}
    for item in accept.split(",")[:_MOST_PREFERENCES]:
        name, *parameters = (piece.strip().lower() for piece in item.split(";"))
        found[_ALIASES.get(name, name)] = quality(parameters)
    return found
