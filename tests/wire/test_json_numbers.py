"""Arrays of numbers read without lists are those that lists would give, and nothing else is."""

import json
import re

import numpy as np
import orjson
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from schemas.attention import AttentionRequest
from service.attention.native import library
from service.errors import ServiceError
from service.settings import Settings
from service.wire import json_call, json_numbers
from service.wire.json_numbers import Numbers, document_of
from tests.builders import normal, same_bytes

SETTINGS = Settings()
NUMBERS = list(range(300))


# Decimals after which there is room to read in registers.
BEHIND = [0.5, -12.25, 3.0517578125] * 10


@pytest.fixture(autouse=True, params=["avx512", "avx2", "baseline"], scope="module")
def native(request):
    """Each instruction set that this processor has reads the same."""
    found = library.available()
    if found is None:
        pytest.skip("the compiled library is not built here")
    try:
        found.use(request.param)
    except library.Absent:
        pytest.skip(f"this machine has no {request.param}")
    yield found
    found.use(None)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Arrays of any size are read in this way."""
    monkeypatch.setattr(json_numbers, "_LEAST_BYTES", 1)
    monkeypatch.setattr(json_numbers, "_LEAST_NUMBERS", 1)


def read(text):
    """The first field of an object, as it is read here."""
    document = document_of(bytearray(b'{"a":' + text.encode() + b"}"), SETTINGS)
    return None if document is None else document["a"]


@given(st.lists(st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.integers(
    -(2**70), 2**70)), min_size=1, max_size=20))  # fmt: skip
def test_every_number_is_read_to_its_last_bit(values):
    """As orjson reads it, then as float64."""
    values = values + BEHIND
    text = json.dumps(values)
    found = read(text)
    expected = np.array([float(x) for x in orjson.loads(text)])
    assert isinstance(found, Numbers)
    assert found.flat.tobytes() == expected.tobytes()
    assert found.shape == (len(values),)


DECIMALS = st.from_regex(r"-?(0|[1-9][0-9]{0,19})(\.[0-9]{1,20})?(e-?[0-9]{1,2})?", fullmatch=True)


@given(st.lists(DECIMALS, min_size=1, max_size=20))
def test_every_spelling_is_rounded_once(spellings):
    """Few digits and many, with powers of ten that float64 holds and others: as orjson has it."""
    spellings = [*spellings, *map(str, BEHIND)]
    expected = np.array([float(orjson.loads(spelling)) for spelling in spellings])
    for between in (",", ", ", " ,\n "):
        assert read(f"[{between.join(spellings)}]").flat.tobytes() == expected.tobytes()


@given(st.lists(st.tuples(st.integers(-(10**15), 10**15), st.integers(0, 18)), min_size=1))
def test_decimals_of_every_length_are_rounded_once(parts):
    """A point at every place of up to sixteen digits, and signs in any order."""
    spellings = []
    for whole, places in parts:
        digits = str(abs(whole)).zfill(places + 1)
        text = f"{digits[: len(digits) - places]}.{digits[len(digits) - places :]}"
        spellings.append("-" * (whole < 0) + text.removesuffix("."))
    spellings += map(str, BEHIND)
    expected = np.array([float(spelling) for spelling in spellings])
    assert read(f"[{','.join(spellings)}]").flat.tobytes() == expected.tobytes()


@pytest.mark.parametrize("number", ["9007199254740992", "9007199254740993", "9007199254740993e1",
                                    "123456789012345678e22", "1e22", "1e23", "3e-22", "3e-23",
                                    "1234567890123456789", "0.1e0000000022"])  # fmt: skip
def test_numbers_at_the_bounds_of_what_is_exact(number):
    """The last that needs one rounding, and the first that does not."""
    assert read(f"[{number}]").flat.tolist() == [float(orjson.loads(number))]


@pytest.mark.parametrize("number", ["-0", "-0.0", "0", "1e5", "1E+5", "2.5e-3", "1e-400", "0e0",
                                    "123456789012345678901234567890", "5e-324"])  # fmt: skip
def test_the_forms_of_a_number(number):
    """Zero keeps its sign where JSON gives it one."""
    found = read(f"[ {number} ,\n{number}\t]")
    expected = float(orjson.loads(number))
    if isinstance(found, Numbers):
        assert found.flat.tobytes() == np.array([expected] * 2).tobytes()
    else:
        # What leaves float64 on either side is left to the parser of everything.
        assert found is None or found == [expected] * 2


BAD = [*("01", "+1", ".5", "1.", "1e", "--1", "0x1", "1_000", "1.2.3", "-.5", "00.5", "0.5-"),
       *("1.5x", "NaN", "Infinity", "-", "1 2", "1,", ",1", "1e400", "null", "true", '"1"', "[]"),
       "{}"]  # fmt: skip


@pytest.mark.parametrize("bad", BAD)
def test_what_is_no_number_is_left_to_the_parser(bad):
    """Nothing that JSON forbids is taken for an array of numbers."""
    for text in (f"[1,{bad}]", f"[1.5,{bad},{str(BEHIND)[1:-1]}]"):
        try:
            found = read(text)
        except ServiceError:
            continue
        assert not isinstance(found, Numbers)


@pytest.mark.parametrize("shape", [(1,), (7,), (2, 3), (4, 1, 5), (2, 3, 1, 2)])
def test_nested_arrays_have_the_shape_of_their_lists(shape):
    """Up to four axes."""
    expected = np.arange(np.prod(shape), dtype=float).reshape(shape)
    found = read(json.dumps(expected.tolist()))
    assert found.shape == shape
    assert np.array_equal(found.flat.reshape(shape), expected)


@pytest.mark.parametrize("text", ["[[1,2],[3]]", "[[1],2]", "[1,[2]]", "[[[[[1]]]]]", "[[1,2],[]]",
                                  "[[],[1]]", "[[[1]],[[1,2]]]", "[[1,2],[3,null]]"])  # fmt: skip
def test_irregular_arrays_stay_lists(text):
    """As the plain parser gives them, but for regular parts, which no validator takes."""
    found = read(text)
    assert not isinstance(found, Numbers)


def test_strings_are_not_looked_into():
    """An array written in a string is text."""
    for text in ('"[1,2,3]"', '"\\"[1,2]"', '"\\\\"'):
        assert read(text) is None


PIECES = ['"', "\\", '\\"', "\\\\", "a", " ", "[7]"]


@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=14))
def test_strings_end_where_their_quotes_are_not_escaped(pieces):
    """Arrays are found outside strings only, whatever stands before quotes, valid or not."""
    text = "".join(pieces)
    outside = re.sub(r'"(?:[^"\\]|\\.)*(?:"|\\?$)', lambda string: "x" * len(string[0]), text)
    expected = [place.start() for place in re.finditer(r"\[7\]", outside)]
    found = library.load().arrays(
        memoryview(bytearray(text.encode())), np.empty(64), least=1, most=20
    )
    assert [array.start for array in found] == expected


def test_a_mark_cannot_be_guessed():
    """What a caller writes as one is a string."""
    body = bytearray(orjson.dumps({"a": NUMBERS, "b": "0" * 32 + "0"}))
    document = document_of(body, SETTINGS)
    assert isinstance(document["a"], Numbers)
    assert document["b"] == "0" * 33


def calls(document):
    """What the request reads as: without lists, and with them."""
    body = bytearray(orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY))
    with pytest.MonkeyPatch.context() as patch:
        found = _outcome(body)
        patch.setattr(library, "available", lambda: None)
        return found, _outcome(body)


def _outcome(body):
    try:
        ((_, request),) = json_call.decode(AttentionRequest, body, SETTINGS).requests
    except ServiceError as error:
        return type(error), str(error), getattr(error, "faults", ())
    return request


QUERY = normal(1, 2, 5, 8).numpy()


@pytest.mark.parametrize(
    "inputs",
    [
        {"query": QUERY, "key": QUERY, "value": QUERY},
        {"query": QUERY[0].tolist(), "key": {"shape": [2, 5, 8], "data": QUERY.ravel().tolist()}},
        {"query": {"shape": [80], "data": QUERY.ravel().tolist(), "dtype": "float64"}},
        {"query": [[1e39, 1.0]]},
        {"query": [[1, 2], [3]]},
        {"query": [[1, None]]},
        {"query": {"shape": [3], "data": [1.0, 2.0]}},
        {"query": {"shape": [2], "data": [[1.0, 2.0]]}},
        {"query": {"shape": [2, 2], "data": NUMBERS, "dtype": "int64"}},
        {"query": "a"},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "rest",
    [
        {},
        {"mask": {"bias": [[0.5] * 5] * 5}},
        {"mask": {"key_lengths": [3]}},
        {"mask": {"allowed": [[1] * 5] * 5}},
        {"labels": {"key": NUMBERS}},
        {"include": NUMBERS},
        {"compute": NUMBERS},
        {"unknown": NUMBERS},
        {"inputs_": [{"a": NUMBERS}]},
    ],
    ids=str,
)
def test_a_request_reads_the_same_either_way(inputs, rest):
    """Tensors to the last byte; what is wrong in the same words."""
    found, expected = calls({"inputs": {"kind": "tensors", **inputs}, **rest})
    if isinstance(expected, tuple):
        assert found == expected
        return
    for name in ("query", "key", "value"):
        have, want = getattr(found.inputs, name), getattr(expected.inputs, name)
        assert (have is None) == (want is None)
        assert have is None or same_bytes(have, want)
    assert (found.mask.bias is None) == (expected.mask.bias is None)
    if found.mask.bias is not None:
        assert same_bytes(found.mask.bias, expected.mask.bias)


def test_no_text_makes_the_reader_read_past_its_end():
    """Every prefix of a text with strings, escapes and arrays."""
    whole = b'{"a":[[1.5,-2e3],[0.25,4]],"b\\"[":"\\\\","c":[1,2,'
    native = library.load()
    for end in range(1, len(whole)):
        flat = np.empty(20)
        with memoryview(bytearray(whole[:end])) as text:
            for array in native.arrays(text, flat, least=1, most=8):
                assert 0 <= array.start < array.stop <= end
                assert torch.isfinite(torch.from_numpy(flat[: array.count])).all()


def test_no_text_of_decimals_makes_the_reader_read_past_its_end(native):
    """Every prefix of an array that is read in registers gives a whole array, or none."""
    whole = b'{"a":[' + b",".join([b"-1.25", b"0.5", b"12.0625"] * 12) + b"]"
    for end in range(1, len(whole) + 1):
        flat = np.full(40, np.nan)
        with memoryview(bytearray(whole[:end])) as text:
            found = native.arrays(text, flat, least=1, most=8)
        assert len(found) == (end == len(whole))
    assert flat[:36].tolist() == [-1.25, 0.5, 12.0625] * 12


@given(st.binary(max_size=20), st.integers(0, 5000))
def test_characters_are_counted_as_python_counts_them(end, repeated):
    """Beyond what one byte of a register counts, and behind the last whole register."""
    body = bytearray(b'{[,1 "a' * repeated + end)
    found = library.load().characters(body)
    separators = sum(body.count(c) for c in b",[{")
    others = sum(byte > ord("9") or byte == ord('"') for byte in body)
    assert found == (separators + 1, others)
