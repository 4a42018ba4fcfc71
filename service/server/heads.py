"""What of a request's head is not read here, beyond what the parser refuses itself."""

import re
from collections.abc import Iterable

from service.errors import NotHttp

_HOST = re.compile(rb"(?:[\w.~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\])(?::\d{0,5})?")
_ORIGIN = re.compile(rb"https?://[^/?#]*", re.IGNORECASE)
Headers = Iterable[tuple[bytes, bytes]]


def check(version: str, method: bytes, headers: Headers) -> None:
    """Refuse what another reader might take for something else.

    The parser lets pass: any version, no host or several, and codings before `chunked`.

    Raises:
        NotHttp: says what was expected.
    """
    if version not in ("1.0", "1.1"):
        raise NotHttp("expected HTTP/1.1 or HTTP/1.0")
    if method == b"CONNECT":
        raise NotHttp("expected a method other than CONNECT: this is no proxy")
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) > 1 or (version == "1.1" and not hosts):
        raise NotHttp(f"expected one header Host, found {len(hosts)}")
    if hosts and not _HOST.fullmatch(hosts[0]):
        raise NotHttp("expected a host name or an address, and perhaps a port, in the header Host")
    codings = [value.lower() for name, value in headers if name == b"transfer-encoding"]
    if codings and (codings != [b"chunked"] or version == "1.0"):
        raise NotHttp("expected Transfer-Encoding: chunked and nothing else, in HTTP/1.1")


def origin_form(target: bytes) -> bytes:
    """The path and query of a target; absolute ones name a server too, which is this one.

    Raises:
        NotHttp: it has no path.
    """
    path = _ORIGIN.sub(b"", target, count=1) if target[:1] not in b"/*" else target
    if path[:1] == b"?" or not path:
        return b"/" + path
    if path[:1] != b"/" and path != b"*":
        raise NotHttp("expected a path as the target of the request")
    return path
