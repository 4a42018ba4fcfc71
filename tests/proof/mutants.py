"""Bodies with something changed, at random from a seed: bytes, numbers, structure, headers."""

import random
from collections.abc import Callable, Iterator
from dataclasses import replace

from service.encodings import JSON, SAFETENSORS
from tests.proof.changed_documents import in_document
from tests.proof.changed_files import in_file
from tests.proof.originals import ORIGINALS, Original

# fmt: off
NUMBERS = [
    "0", "-0", "-1", "1", "2", "1.5", "1e999", "-1e308", "1e-320", "NaN", "Infinity", "-Infinity",
    "4294967296", "9223372036854775807", "9223372036854775808", "-9223372036854775809",
    "18446744073709551616", "1" * 400, "0x10", "01", "+1", "1_000", "1e", ".5", "true", "null",
]
NOISE = [
    b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b'"', b"\\", b"{", b"[" * 40, b":", b"\\ud800",
    b"\xed\xa0\x80", b"/**/", b",", b"}",
]
# fmt: on
Change = Callable[[random.Random, bytes], bytes]


def mutants(seed: int, count: int) -> Iterator[Original]:
    """So many changed bodies, each from one of the originals, changed one to three times."""
    draw = random.Random(seed)
    for _ in range(count):
        body = draw.choice(ORIGINALS)
        for _ in range(draw.choice([1, 1, 1, 2, 3])):
            body = mutated(draw, body)
        yield body


def mutated(draw: random.Random, original: Original) -> Original:
    """With one change; of JSON in front of bytes, or of these, or of the length that parts them."""
    if original.length is None:
        return replace(original, body=changed(draw, original.body, original.encoding))
    text, behind = original.body[: original.length], original.body[original.length :]
    way = draw.random()
    if way < 0.1:
        lengths = [0, original.length - 1, original.length + 1, len(original.body), 10**17]
        return replace(original, length=max(0, draw.choice(lengths)))
    if way < 0.25:
        return replace(original, body=text + draw.choice(BYTEWISE)(draw, behind))
    text = changed(draw, text, JSON)
    return replace(original, body=text + behind, length=len(text))


def changed(draw: random.Random, body: bytes, encoding: str) -> bytes:
    """The bytes with one change; a structured one where they still have their structure."""
    structured = in_file if encoding == SAFETENSORS else in_document
    change = draw.choice([structured, structured, structured, draw.choice(BYTEWISE)])
    try:
        return change(draw, body)
    except (ValueError, IndexError, RecursionError):  # no longer JSON, or nothing to change in it
        return draw.choice(BYTEWISE)(draw, body)


def flipped(draw: random.Random, body: bytes) -> bytes:
    """One to eight bits."""
    changed = bytearray(body)
    for _ in range(draw.randint(1, 8) if changed else 0):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def truncated(draw: random.Random, body: bytes) -> bytes:
    """Less of its end, or of its beginning."""
    at = draw.randint(0, len(body))
    return body[:at] if draw.random() < 0.8 else body[at:]


def spliced(draw: random.Random, body: bytes) -> bytes:
    """A piece of another body inserted, or put over its own bytes."""
    other = draw.choice(ORIGINALS).body
    start = draw.randint(0, len(other))
    piece = other[start : start + draw.randint(1, 200)]
    at = draw.randint(0, len(body))
    return body[:at] + piece + body[at + draw.choice([0, len(piece)]) :]


def repeated(draw: random.Random, body: bytes) -> bytes:
    """A piece of it many times."""
    at = draw.randint(0, len(body))
    piece = body[at : at + draw.randint(1, 12)]
    return body[:at] + piece * draw.choice([2, 3, 50, 5000]) + body[at:]


def cut(draw: random.Random, body: bytes) -> bytes:
    """A piece taken out."""
    at = draw.randint(0, len(body))
    return body[:at] + body[at + draw.randint(1, 30) :]


def renumbered(draw: random.Random, body: bytes) -> bytes:
    """Another number where one stands."""
    starts = [i for i, byte in enumerate(body[:4096]) if chr(byte) in "0123456789"]
    at = draw.choice(starts) if starts else len(body)
    end = at
    while end < len(body) and chr(body[end]) in "0123456789.":
        end += 1
    return body[:at] + draw.choice(NUMBERS).encode() + body[end:]


def sprinkled(draw: random.Random, body: bytes) -> bytes:
    """Bytes that mean something to one decoder or another."""
    at = draw.randint(0, len(body))
    return body[:at] + draw.choice([*NOISE, draw.randbytes(9)]) + body[at:]


BYTEWISE: list[Change] = [flipped, truncated, spliced, repeated, cut, renumbered, sprinkled]
