import gzip
import os
import random
import time
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import LimitExceeded, Malformed
from service.wire.compression import CODINGS, deflate, inflate, most_inflated
from service.wire.pieces import Content

COMPRESS = {"gzip": gzip.compress, "deflate": zlib.compress}
DECOMPRESS = {"gzip": gzip.decompress, "deflate": zlib.decompress}
PIECE = 2**20


def inflated(compressed, coding="gzip", allowed=2**27):
    return inflate(bytearray(compressed), coding, allowed=allowed, setting="ATTENTION_X")


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("size", [0, 1, 2**16, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 17])
@pytest.mark.parametrize("make", [bytes, os.urandom, lambda n: random.Random(n).randbytes(7) * n])
def test_what_was_compressed_comes_back(coding, size, make):
    """Of any size, however well it compresses, to the byte, and with a bound of just its size."""
    data = make(size)[:size]
    for level in (1, 9):
        compressed = COMPRESS[coding](data, level)
        assert inflated(compressed, coding, allowed=size) == data


@given(st.binary(max_size=300), st.sampled_from(CODINGS), st.integers(0, 9))
def test_any_bytes_come_back(data, coding, level):
    """At every level."""
    assert inflated(COMPRESS[coding](data, level), coding) == data


@given(st.lists(st.binary(max_size=100), max_size=5), st.sampled_from(CODINGS))
def test_answers_are_read_by_the_standard_library(pieces, coding):
    """What is written in pieces is one stream of the coding."""
    written = bytes(deflate(Content(pieces), coding))
    assert DECOMPRESS[coding](written) == b"".join(pieces)


@pytest.mark.parametrize("coding", CODINGS)
def test_one_byte_beyond_the_bound_is_refused(coding):
    """The error names the setting, what is allowed, and at least what is needed."""
    with pytest.raises(LimitExceeded) as refused:
        inflated(COMPRESS[coding](b"x" * 1001), coding, allowed=1000)
    assert (refused.value.allowed, refused.value.setting) == (1000, "ATTENTION_X")
    assert refused.value.needed > 1000


def test_a_bomb_is_never_held_whole():
    """48 kB that inflate to 50 MB cost no more memory than is allowed, and next to no time."""
    bomb = gzip.compress(bytes(50_000_000), 9)
    assert len(bomb) < 50_000
    tracemalloc.start()
    began = time.monotonic()
    with pytest.raises(LimitExceeded):
        inflated(bomb, allowed=2**20)
    took, peak = time.monotonic() - began, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert took < 1
    assert peak < 5 * 2**20


def test_a_bomb_within_the_bound_is_a_body():
    """What is allowed is read."""
    assert len(inflated(gzip.compress(bytes(50_000_000)))) == 50_000_000


@pytest.mark.parametrize("size", [10, 10**3, 10**5, 10**7, 10**8])
def test_no_body_grows_beyond_what_is_held_for_it(size):
    """The most that a compressed body can become is known from its length."""
    for coding in CODINGS:
        compressed = COMPRESS[coding](bytes(size), 9)
        assert most_inflated(len(compressed), 2**40) >= size
    assert most_inflated(10**6, 1000) == 1000 + PIECE


@pytest.mark.parametrize("coding", CODINGS)
def test_what_is_no_stream_is_malformed(coding):
    """Another coding, no coding, a cut stream, a changed byte, nothing at all."""
    good = COMPRESS[coding](b"query" * 100)
    raw = zlib.compressobj(wbits=-15)
    other = COMPRESS["gzip" if coding == "deflate" else "deflate"](b"x")
    changed = good[:-3] + bytes([good[-3] ^ 1]) + good[-2:]
    raw_deflate = raw.compress(b"x" * 100) + raw.flush()
    for bad in (b"", b"{}", good[:-1], good[:5], good[1:], changed, other, raw_deflate):
        with pytest.raises(Malformed, match=coding):
            inflated(bad, coding)


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("behind", [b"\0", b"x", b"\x1f\x8b", b"\0" * 70_000])
def test_bytes_behind_the_stream_are_refused(coding, behind):
    """A body is its stream and nothing else, zeros neither."""
    with pytest.raises(Malformed):
        inflated(COMPRESS[coding](b"query") + behind, coding)


def test_gzip_members_are_one_body():
    """As the format has it (RFC 1952, 2.2); deflate has no members."""
    parts = [b"query", b"", b"key" * 50_000, b"value"]
    assert inflated(b"".join(map(gzip.compress, parts))) == b"".join(parts)
    with pytest.raises(Malformed, match="behind"):
        inflated(b"".join(map(zlib.compress, parts)), "deflate")


def test_many_empty_members_cost_little():
    """Each member costs a copy of what is fed, so that their number is bounded."""
    began = time.monotonic()
    assert inflated(gzip.compress(b"") * 4096) == b""
    with pytest.raises(Malformed, match="4,096 members"):
        inflated(gzip.compress(b"") * 1_000_000)
    assert time.monotonic() - began < 2


def test_empty_blocks_cost_little():
    """A stream that never gives a byte ends all the same."""
    blocks = b"\x1f\x8b\x08\0\0\0\0\0\0\3" + b"\0\0\0\xff\xff" * 4_000_000
    began = time.monotonic()
    with pytest.raises(Malformed):
        inflated(blocks)
    assert time.monotonic() - began < 2
