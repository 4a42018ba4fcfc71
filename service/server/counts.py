"""How much of a request has come, against what may."""

from service.errors import HeadTooLarge, NotHttp
from service.settings import Settings

MOST_FRAMES = 4
"""A chunk of one byte is framed by five, of two bytes by two and a half for each."""
_WHAT = {
    "max_headers": "the request's headers",
    "max_header_bytes": "the head and what frames the body, in bytes",
}


class Counts:
    """Of one request: its target and headers, what frames its body, and the body."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._headers = self._head_bytes = self._frame_bytes = self._unwanted_bytes = 0
        self.body_bytes = 0

    def target(self, part: bytes) -> None:
        """A part of the target has come.

        Raises:
            HeadTooLarge: more than the setting allows.
        """
        self._head_bytes += len(part)
        self._check("max_header_bytes", self._head_bytes)

    def header(self, name: bytes, value: bytes) -> None:
        """A header or a trailer has come.

        Raises:
            HeadTooLarge: more of them than the settings allow.
        """
        self._headers += 1
        self._head_bytes += len(name) + len(value) + len(b": \r\n")
        self._check("max_headers", self._headers)
        self._check("max_header_bytes", self._head_bytes)

    def frames(self, count: int) -> None:
        """Bytes have come that are no body: an unfinished field, sizes of chunks, extensions.

        Beside what a head may have, a body may be framed by MOST_FRAMES times its bytes.

        Raises:
            HeadTooLarge: more than that.
        """
        self._frame_bytes += count
        self._check("max_header_bytes", self._frame_bytes - MOST_FRAMES * self.body_bytes)

    def body(self, part: bytes, *, wanted: bool) -> None:
        """A part of the body has come.

        Raises:
            NotHttp: nobody wants it, and it is more than is thrown away.
        """
        self.body_bytes += len(part)
        self._unwanted_bytes += 0 if wanted else len(part)
        if self._unwanted_bytes > self._settings.max_body_bytes:
            raise NotHttp("expected the body to end: it was refused")

    def _check(self, field: str, found: int) -> None:
        allowed = getattr(self._settings, field)
        if found > allowed:
            name = self._settings.name_of(field)
            raise HeadTooLarge(_WHAT[field], needed=found, allowed=allowed, setting=name)
