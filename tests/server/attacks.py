"""Requests that no well-meaning client sends, and what each is answered."""

from dataclasses import dataclass

from tests.server.raw import NOTHING, head, post

KIB = 1024
SETTINGS = {
    "head_timeout_s": 1,
    "body_timeout_s": 1,
    "keep_alive_s": 1,
    "send_timeout_s": 1,
    "max_body_bytes": 256 * KIB,
    "log_level": "info",
}
"""Deadlines short enough to wait for."""


@dataclass(frozen=True)
class Attack:
    """Bytes and pauses, the statuses of all answers until the server closes, and what they name."""

    name: str
    steps: tuple[bytes | float, ...]
    statuses: tuple[int, ...]
    slug: str | None = None
    limit: str | None = None
    """The setting that is exceeded, where one is."""


def attack(name, *steps, is_answered=(), slug=None, limit=None):
    return Attack(name, steps, tuple(is_answered), slug, limit)


def bad(name, *steps):
    """Not a request that can be read in one way."""
    return attack(name, *steps, is_answered=[400], slug="malformed-request")


def too_large(name, *steps, limit="max_header_bytes"):
    return attack(name, *steps, is_answered=[431], slug="head-too-large", limit=limit)


def late(name, *steps, what="body"):
    return attack(
        name, *steps, is_answered=[408], slug=f"{what}-timeout", limit=f"{what}_timeout_s"
    )


def chunked(*chunks, close=True):
    return post("Transfer-Encoding: chunked", body=b"".join(chunks), close=close)


def trickle(data, count, pause=0.15):
    """One byte now and then."""
    return [step for byte in data[:count] for step in (bytes([byte]), pause)]


GOOD = head()
SECRET = head(path="/v1/limits")
"""A second request that must not be served where it is smuggled."""
LENGTH = f"Content-Length: {len(NOTHING)}"
PLAIN = [b"%x\r\n%s\r\n" % (len(NOTHING), NOTHING), b"0\r\n\r\n"]
LINE = b"GET /health/live HTTP/1.1\r\n"
HOST = b"Host: x\r\n"
OFFER = ("Connection: Upgrade", "Upgrade: h2c")
"""Clients that know HTTP/2 send it; the head is read a second time without it."""

SMUGGLING = [
    bad("length and chunks", post(LENGTH, "Transfer-Encoding: chunked", body=PLAIN[1] + SECRET)),
    bad("chunks and length", post("Transfer-Encoding: chunked", LENGTH, body=PLAIN[1] + SECRET)),
    bad("two lengths", post("Content-Length: 0", "Content-Length: 30", body=SECRET)),
    bad("one length twice", post(LENGTH, LENGTH, body=NOTHING)),
    bad("a list of lengths", post("Content-Length: 14, 14", body=NOTHING)),
    bad("a signed length", post("Content-Length: +14", body=NOTHING)),
    bad("a negative length", post("Content-Length: -1", body=NOTHING)),
    bad("a hexadecimal length", post("Content-Length: 0xe", body=NOTHING)),
    bad("an empty length", post("Content-Length:", body=NOTHING)),
    bad("a length beyond 64 bits", post("Content-Length: 18446744073709551616")),
    bad("a space before the colon", post("Content-Length : 14", body=NOTHING)),
    bad("gzip before chunked", post("Transfer-Encoding: gzip, chunked", body=b"".join(PLAIN))),
    bad("chunked twice", post("Transfer-Encoding: chunked, chunked", body=b"".join(PLAIN))),
    bad(
        "two codings",
        post("Transfer-Encoding: chunked", "Transfer-Encoding: identity", body=PLAIN[1]),
    ),
    bad("an unknown coding", post("Transfer-Encoding: xchunked", body=PLAIN[1] + SECRET)),
    bad("chunked in a quote", post('Transfer-Encoding: "chunked"', body=PLAIN[1])),
    bad("chunked after a vertical tab", post("Transfer-Encoding: \x0bchunked", body=PLAIN[1])),
    bad("a folded coding", post("Transfer-Encoding:\r\n chunked", body=PLAIN[1])),
    bad("identity", post("Transfer-Encoding: identity", body=SECRET)),
    bad(
        "chunks in HTTP/1.0",
        head("POST", "/v1/attention", "HTTP/1.0", "Transfer-Encoding: chunked") + PLAIN[1],
    ),
    attack(
        "a body where an upgrade is offered",
        post(
            *OFFER,
            f"Content-Length: {len(SECRET)}",
            body=SECRET,
            close=False,
        ),
        is_answered=[400],
        slug="malformed-body",
    ),
    attack("a request after the last", head() + SECRET, is_answered=[200]),
]
CHUNKS = [
    bad("a negative chunk", chunked(b"-1\r\n")),
    bad("a chunk in hexadecimal notation", chunked(b"0x1\r\n{\r\n0\r\n\r\n")),
    bad("a chunk beyond 64 bits", chunked(b"1" + b"0" * 16 + b"\r\n{")),
    bad("a chunk without a size", chunked(b"\r\n{\r\n")),
    bad("a space after a chunk's size", chunked(b"1 \r\n{\r\n")),
    bad("a chunk longer than its size", chunked(b"1\r\n{}\r\n0\r\n\r\n")),
    bad("a chunk ended by a bare line feed", chunked(b"2\n{}\n0\n\n")),
    bad(
        "a length among the trailers", chunked(PLAIN[0], b"0\r\nX: 1\r\nContent-Length: 9\r\n\r\n")
    ),
    late("a chunk of 2⁶⁴ - 1 bytes", chunked(b"f" * 16 + b"\r\n{")),
    too_large(
        "a long extension", chunked(b"e;x=" + b"a" * 100_000 + b"\r\n" + NOTHING + b"\r\n0\r\n\r\n")
    ),
    too_large("a long trailer", chunked(PLAIN[0], b"0\r\nX: " + b"a" * 100_000 + b"\r\n\r\n")),
    too_large(
        "many trailers",
        chunked(PLAIN[0], b"0\r\n" + b"X: a\r\n" * 101 + b"\r\n"),
        limit="max_headers",
    ),
    too_large(
        "an extension on each of many chunks",
        chunked(*[b"1;x=" + b"a" * 99 + b"\r\n \r\n"] * 2_000),
    ),
    too_large("100,000 chunks of a byte", chunked(*[b"1\r\n \r\n"] * 100_000)),
    attack(
        "a trailer like a header",
        chunked(PLAIN[0], b"0\r\nExpect: 100-continue\r\n\r\n"),
        is_answered=[200],
    ),
    attack("an extension", chunked(b"e;a=1;b\r\n" + NOTHING + b"\r\n0\r\n\r\n"), is_answered=[200]),
]
HEADS = [
    too_large("a header of 64 MiB", LINE + HOST + b"X: ", *[b"a" * 2**20] * 64),
    too_large(
        "a header just too long", head("GET", "/health/live", "HTTP/1.1", "X: " + "a" * 32 * KIB)
    ),
    too_large("a name of a megabyte", LINE + HOST + b"X" * 2**20),
    too_large("a path of a megabyte", head(path="/" + "a" * 2**20)),
    too_large("spaces before a value", LINE + HOST + b"X:" + b" " * 2**20 + b"a\r\n\r\n"),
    too_large(
        "many headers", head("GET", "/health/live", "HTTP/1.1", *["X: a"] * 99), limit="max_headers"
    ),
    too_large("a million empty lines", b"\r\n" * 2**20 + GOOD),
    bad("no host", LINE + b"\r\n"),
    bad("two hosts", LINE + HOST + HOST + b"\r\n"),
    bad("a host with a path", LINE + b"Host: x/y\r\n\r\n"),
    bad("a folded header", head("GET", "/health/live", "HTTP/1.1", "X: a\r\n b")),
    bad("bare line feeds", b"GET /health/live HTTP/1.1\nHost: x\n\n"),
    bad("a bare carriage return", LINE + b"Host: x\rX: a\r\n\r\n"),
    bad("NUL in a value", head("GET", "/health/live", "HTTP/1.1", "X: a\0b")),
    bad("NUL in a path", head(path="/\0")),
    bad("bytes that are not ASCII in a path", head(path="/é")),
    bad("a space in a name", head("GET", "/health/live", "HTTP/1.1", "X Y: a")),
    bad("a header without a name", head("GET", "/health/live", "HTTP/1.1", ": a")),
    bad("a header without a colon", head("GET", "/health/live", "HTTP/1.1", "Xa")),
    bad("a path that does not begin with a slash", head(path="health/live")),
    attack(
        "a path in which everything is encoded",
        head(path="/%2e%2e/%00%ff%0d%0aX:%20a"),
        is_answered=[404],
        slug="not-found",
    ),
    attack(
        "as many headers as may be",
        head("GET", "/health/live", "HTTP/1.1", *["X: a"] * 98),
        is_answered=[200],
    ),
    attack(
        "a server that is none of ours",
        head(path="http://elsewhere.example/health/live"),
        is_answered=[200],
    ),
    attack("the target *", head("OPTIONS", "*"), is_answered=[404], slug="not-found"),
]
PROTOCOLS = [
    bad("HTTP/0.9", b"GET /health/live\r\n\r\n"),
    bad("HTTP/2's preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    bad("HTTP/2.0", head(version="HTTP/2.0")),
    bad("HTTP/1.2", head(version="HTTP/1.2")),
    bad("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    bad("a proxy's preamble", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + GOOD),
    bad("CONNECT", head("CONNECT", "x:443")),
    bad("a lower-case method", head("get")),
    bad("a method of 100 kB", head("A" * 100_000)),
    attack("nonsense after a request", head(close=False) + b"\0\1\2", is_answered=[200]),
    attack(
        "a websocket",
        head(
            "GET",
            "/v1/limits",
            "HTTP/1.1",
            "Connection: Upgrade",
            "Upgrade: websocket",
            close=False,
        ),
        head(),
        is_answered=[200, 200],
    ),
    attack(
        "HTTP/2 offered",
        post(*OFFER, LENGTH, body=NOTHING, close=False),
        is_answered=[200],
    ),
    bad("upgrade + two hosts", head("GET", "/health/live", "HTTP/1.1", "Host: y", *OFFER)),
    bad("upgrade + no host", LINE + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n"),
    too_large(
        "upgrade + many trailers",
        post(*OFFER, "Transfer-Encoding: chunked", body=PLAIN[0] + b"0\r\n" + b"X: a\r\n" * 101),
        limit="max_headers",
    ),
    attack(
        "many pipelined upgrades",
        head("GET", "/health/live", "HTTP/1.1", *OFFER, close=False) * 20,
        is_answered=[200] * 17,
    ),
    attack("HTTP/1.0", b"GET /health/live HTTP/1.0\r\n\r\n", is_answered=[200]),
    attack("sixteen requests at once", head(close=False) * 15 + head(), is_answered=[200] * 16),
    attack("a thousand requests at once", head(close=False) * 1000, is_answered=[200] * 17),
]
SLOW = [
    attack("nothing at all", limit="head_timeout_s"),
    late("a part of a head", LINE + b"Ho", what="head"),
    late("a head in drops", *trickle(LINE + b"X: " + b"a" * 99, 16), what="head"),
    attack(
        "a second head in drops",
        head(close=False),
        *trickle(LINE + b"X: a", 16),
        is_answered=[200, 408],
        slug="head-timeout",
    ),
    attack("nothing after an answer", head(close=False), is_answered=[200], limit="keep_alive_s"),
    late("a part of a body", post(LENGTH, body=b"{")),
    late("a body in drops", post(LENGTH), *trickle(NOTHING, 10)),
    late("a part of a chunk", chunked(b"e\r\n{")),
    late("chunks in drops", chunked(), *trickle(b"1\r\n{\r\n" * 3, 14)),
    attack(
        "a body that nobody wants, in drops",
        head("GET", "/v1/limits", "HTTP/1.1", "Content-Length: 99", close=False),
        *trickle(b"a" * 99, 18),
        is_answered=[200],
    ),
    attack(
        "a body declared too large, and sent",
        post("Content-Length: 9999999999", close=False),
        *[b"a" * 64 * KIB] * 5,
        is_answered=[413],
        slug="limit-exceeded",
    ),
    attack(
        "a body too large, never asked for",
        post("Content-Length: 9999999999", "Expect: 100-continue", close=False),
        is_answered=[413],
        slug="limit-exceeded",
    ),
    attack(
        "a body asked for",
        post(LENGTH, "Expect: 100-continue", close=False),
        0.1,
        NOTHING,
        is_answered=[100, 200],
    ),
]
ATTACKS = [*SMUGGLING, *CHUNKS, *HEADS, *PROTOCOLS, *SLOW]
