import base64
import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import PydanticCustomError

from schemas.attention import AttentionRequest
from service.errors import Invalid, LimitExceeded
from service.settings import Settings
from service.wire import json_call
from service.wire.nested import reader
from service.wire.tensor_bytes import from_bytes
from tests.builders import same_bytes
from tests.files import raw

SETTINGS = Settings(max_elements=10_000)
FLOATS = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}
DTYPES = {
    "number": FLOATS,
    "number_or_forbidden": FLOATS,
    "boolean": {"bool": torch.bool},
    "integer": {"int64": torch.int64},
}
OF_ROLE = [(role, name) for role, named in DTYPES.items() for name in named]
CANARY = 31415.9265


def read(value, role="number"):
    return reader(SETTINGS)(value, role)


def refused(value, role="number"):
    """The message with which a value is refused."""
    with pytest.raises(PydanticCustomError) as caught:
        read(value, role)
    return caught.value.message()


def as_list(tensor):
    """A tensor as JSON would hold it, −∞ as null."""
    if tensor.dim() == 0:
        return None if tensor.item() == -math.inf else tensor.item()
    return [as_list(part) for part in tensor]


def flat(tensor, dtype, *, text=False):
    """A tensor in the form with a shape, its data a list or base64."""
    data = base64.b64encode(raw(tensor)).decode() if text else as_list(tensor.reshape(-1))
    return {"shape": list(tensor.shape), "dtype": dtype, "data": data}


def elements(role, dtype):
    """Elements of a role that the dtype holds exactly."""
    if role == "boolean":
        return st.booleans()
    if role == "integer":
        return st.integers(-(2**63), 2**63 - 1)
    width = {"float64": 64, "float16": 16}.get(dtype, 32)
    numbers = st.floats(allow_nan=False, allow_infinity=False, width=width)
    if dtype == "bfloat16":
        numbers = st.integers(-256, 256).map(float)
    return numbers | st.none() if role == "number_or_forbidden" else numbers


@given(st.data(), st.sampled_from(OF_ROLE), st.lists(st.integers(1, 3), min_size=1, max_size=4))
def test_all_forms_give_the_same_tensor(data, role_and_dtype, shape):
    """Nested, flat and base64 of the same elements are the same bits, at every rank and dtype."""
    role, dtype = role_and_dtype
    count = math.prod(shape)
    drawn = data.draw(st.lists(elements(role, dtype), min_size=count, max_size=count))
    wanted = [-math.inf if element is None else element for element in drawn]
    tensor = torch.tensor(wanted, dtype=DTYPES[role][dtype]).view(shape)
    assert same_bytes(read(flat(tensor, dtype), role), tensor)
    assert same_bytes(read(flat(tensor, dtype, text=True), role), tensor)
    nested_dtype = {"boolean": torch.bool, "integer": torch.int64}.get(role, torch.float32)
    if tensor.dtype == nested_dtype:
        assert same_bytes(read(as_list(tensor), role), tensor)


@pytest.mark.parametrize(("role", "dtype"), OF_ROLE)
def test_every_dtype_of_a_role_is_read(role, dtype):
    """Each role reads each of its dtypes and refuses all others, naming those it reads."""
    tensor = torch.ones(2, 3).to(DTYPES[role][dtype])
    assert read(flat(tensor, dtype, text=True), role).dtype == tensor.dtype
    others = {"float16", "float32", "float64", "bool", "int64", "int32", "int8", "complex64"}
    for other in others - set(DTYPES[role]):
        message = refused({"shape": [1], "dtype": other, "data": [1]}, role)
        assert message == f"expected dtype {' or '.join(DTYPES[role])}"


def test_dtype_absent_means_what_a_nested_list_means():
    """Without a dtype numbers are float32, booleans bool and integers int64."""
    assert read({"shape": [1], "data": [1]}).dtype == torch.float32
    assert read({"shape": [1], "data": [True]}, "boolean").dtype == torch.bool
    assert read({"shape": [1], "data": [1]}, "integer").dtype == torch.int64


def test_numbers_round_to_the_nearest_of_their_dtype():
    """A number is read in float64 and rounded once, as torch and numpy do."""
    for text, dtype in (("0.1", "float32"), ("16777217", "float32"), ("2049", "float16")):
        number = json.loads(text)
        expected = torch.tensor([number], dtype=torch.float64).to(FLOATS[dtype])
        assert same_bytes(read({"shape": [1], "dtype": dtype, "data": [number]}), expected)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([[1, 2], [3]], "the list is ragged: lengths 1 and 2 at axis 1"),
        ([[[1], [2]], [[3], [4, 5]]], "the list is ragged: lengths 1 and 2 at axis 2"),
        ([[1], []], "the list is ragged: lengths 0 and 1 at axis 1"),
        ([[1, 2], 3], "the list mixes lists and elements at one level"),
        ([[[1]], [2]], "the list mixes lists and elements at one level"),
        ([[None], 2], "the list mixes lists and elements at one level"),
        ([[[[[1]]]]], "a tensor has at most 4 axes"),
        ([[[[[]]]]], "a tensor has at most 4 axes"),
    ],
)
def test_what_is_no_box_is_refused(value, message):
    """Ragged lists, lists beside elements and a fifth axis are refused with their place."""
    assert refused(value) == message


@pytest.mark.parametrize(
    ("role", "element", "message"),
    [
        ("number", "31415.9265", "expected numbers; found a string at [1, 0]"),
        ("number", True, "expected numbers; found a boolean at [1, 0]"),
        ("number", None, "expected numbers; found null at [1, 0]"),
        ("number", {}, "expected numbers; found an object at [1, 0]"),
        ("number_or_forbidden", "", "expected numbers or null; found a string at [1, 0]"),
        ("number_or_forbidden", False, "expected numbers or null; found a boolean at [1, 0]"),
        ("boolean", 0, "expected true and false; found a number at [1, 0]"),
        ("boolean", 1, "expected true and false; found a number at [1, 0]"),
        ("boolean", 1.0, "expected true and false; found a number with a fraction at [1, 0]"),
        ("boolean", None, "expected true and false; found null at [1, 0]"),
        ("integer", 1.5, "expected integers; found a number with a fraction at [1, 0]"),
        ("integer", True, "expected integers; found a boolean at [1, 0]"),
        ("integer", None, "expected integers; found null at [1, 0]"),
        ("integer", "1", "expected integers; found a string at [1, 0]"),
    ],
)
def test_elements_are_never_coerced(role, element, message):
    """A wrong element is refused by kind and place, and a 0 or 1 is never taken for a boolean."""
    good = {"boolean": True}.get(role, 1)
    assert refused([[good, good], [element, good]], role) == message
    in_flat = refused({"shape": [2, 2], "data": [good, good, element, good]}, role)
    assert in_flat == message.replace("[1, 0]", "[2]")


@pytest.mark.parametrize("value", [3, 3.5, 1e20, "3", True, None])
def test_a_tensor_is_a_list_or_an_object(value):
    """Bare values are no tensors, save for one integer where a vector of integers is expected."""
    for role in ("number", "number_or_forbidden", "boolean"):
        assert refused(value, role).startswith("expected a nested list of ")
    if type(value) is int:
        assert read(value, "integer").tolist() == value
    elif type(value) is float:
        told = " that fits into 64 bits" if value > 2**63 else "; found a number with a fraction"
        assert refused(value, "integer") == f"expected an integer{told}"
    else:
        assert refused(value, "integer").startswith("expected a nested list of integers")


@pytest.mark.parametrize(
    ("dtype", "number", "largest"),
    [
        ("float32", 1e39, 3.4028234663852886e38),
        ("float32", -3.5e38, -3.4028234663852886e38),
        ("float32", 18446744073709551615e30, 1e38),
        ("float16", 65520, 65519),
        ("bfloat16", 3.4e38, 3.38e38),
    ],
)
def test_a_number_past_its_dtype_is_refused(dtype, number, largest):
    """A finite number never becomes infinity; the largest of its dtype is still read."""
    shape = {"shape": [2], "dtype": dtype}
    expected = f"the number at [1] is too large for {dtype}"
    assert refused({**shape, "data": [0, number]}) == expected
    assert refused({**shape, "data": [None, number]}, "number_or_forbidden") == expected
    if dtype == "float32":
        assert refused([[0, number]]) == "the number at [0, 1] is too large for float32"
    assert torch.isfinite(read({**shape, "data": [0, largest]})).all()


def test_large_finite_numbers_pass():
    """Numbers whose sum overflows are not mistaken for infinities."""
    assert torch.isfinite(read([3e38, 3e38, 3e38])).all()
    assert torch.isfinite(read({"shape": [2], "dtype": "float64", "data": [1e308, 1e308]})).all()


@pytest.mark.parametrize("number", [2**63, 2**64 - 1, -(2**63) - 1])
def test_an_integer_past_64_bits_is_refused(number):
    """An offset or a length that int64 cannot hold is refused."""
    assert refused([number], "integer") == "an integer does not fit into 64 bits"
    assert refused(number, "integer") == "an integer does not fit into 64 bits"


def test_null_is_minus_infinity_where_it_may_be():
    """Null in logits and biases is −∞, at every rank and in every float dtype."""
    found = read([[1, None], [None, None]], "number_or_forbidden")
    assert found.tolist() == [[1, -math.inf], [-math.inf, -math.inf]]
    for dtype in FLOATS:
        found = read({"shape": [2], "dtype": dtype, "data": [None, 2]}, "number_or_forbidden")
        assert found.tolist() == [-math.inf, 2]


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"shape": [1]},
        {"data": [1]},
        {"shape": [1], "data": [1], "strides": [1]},
        {"shape": [1], "data": [1], "Dtype": "float32"},
    ],
)
def test_the_fields_of_a_flat_tensor_are_known(value):
    """A missing or unknown field is refused."""
    assert refused(value) == "expected the fields shape, dtype (optional) and data"


@pytest.mark.parametrize(
    "shape", [None, 3, "3", [-1], [1, -1], [1.0], [True], ["3"], [None], [[1]], [1] * 5, {}]
)
def test_a_shape_is_at_most_four_extents(shape):
    """Negative, fractional and other extents and a fifth axis are refused."""
    assert refused({"shape": shape, "data": [1]}) == "shape must be a list of at most 4 extents"


@pytest.mark.parametrize("count", [0, 5, 7])
def test_data_has_as_many_elements_as_the_shape(count):
    """Too few and too many elements are refused with both counts."""
    message = refused({"shape": [2, 3], "data": [1] * count})
    assert message == f"shape [2, 3] needs 6 elements; found {count}"


@pytest.mark.parametrize("data", [None, 3, True, {}, {"a": 1}])
def test_data_is_a_list_or_text(data):
    """Other data is refused."""
    expected = "data must be a flat list, or base64 in a string"
    assert refused({"shape": [1], "data": data}) == expected


def test_flat_data_holds_no_lists():
    """Nested data under a shape is refused, even if its elements would fit."""
    message = refused({"shape": [2, 1], "data": [[1], [2]]})
    assert message.startswith("expected numbers; found ")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "shape [2] of float32 needs 12 characters of base64; found 0"),
        ("AACAPwAAAE", "shape [2] of float32 needs 12 characters of base64; found 10"),
        ("AACAPwAAAEA=AAAA", "shape [2] of float32 needs 12 characters of base64; found 16"),
        ("AACAPwAAAEAA", "data is not base64 of the right length"),
        ("AACAPwAAAA==", "data is not base64 of the right length"),
        ("AACA-wAA_EA=", "data is not base64"),
        ("AACA PwAAEA=", "data is not base64"),
        ("AAC\nPwAAAEA=", "data is not base64"),
        ("====AAAAAAAA", "data is not base64"),
        ("AACA=wAAAEA=", "data is not base64"),
        ("ÄACAPwAAAEA=", "data is not base64"),
    ],
)
def test_base64_is_strict(data, message):
    """Wrong lengths, the alphabet for addresses, padding inside and blanks are all refused."""
    assert refused({"shape": [2], "data": data}) == message
    assert read({"shape": [2], "data": "AACAPwAAAEA="}).tolist() == [1, 2]


def test_base64_holds_what_json_cannot():
    """NaN and infinities arrive exact in base64; the analysis decides about them."""
    tensor = torch.tensor([math.nan, math.inf, -math.inf, -0.0])
    assert same_bytes(read(flat(tensor, "float32", text=True)), tensor)


def test_a_boolean_byte_is_0_or_1():
    """A byte of 2 is no boolean in base64."""
    for byte in (2, 255):
        text = base64.b64encode(bytes([0, 1, byte])).decode()
        value = {"shape": [3], "dtype": "bool", "data": text}
        assert refused(value, "boolean") == "a boolean byte must be 0 or 1"


@pytest.mark.parametrize(
    "value",
    [
        [0] * 10_001,
        [[0] * 101] * 100,
        {"shape": [10_001], "data": [0]},
        {"shape": [101, 100], "data": ""},
        {"shape": [2**62, 2**62, 2**62, 2**62], "data": []},
    ],
)
def test_too_many_elements_are_over_the_limit(value):
    """More elements than allowed are refused from the shape alone, naming the setting."""
    with pytest.raises(LimitExceeded) as caught:
        read(value)
    assert caught.value.setting == "ATTENTION_MAX_ELEMENTS"
    assert caught.value.allowed == 10_000
    assert caught.value.needed > 10_000


def test_as_many_elements_as_allowed_are_read():
    """The limit itself is within the limit."""
    assert read([[0] * 100] * 100).shape == (100, 100)
    assert read({"shape": [100, 0, 2**50], "data": []}).shape == (100, 0, 2**50)


@pytest.mark.parametrize("shape", [[0], [0, 3], [2, 0, 3]])
def test_empty_tensors_are_read_as_they_are(shape):
    """An axis of 0 is left to the analysis, which refuses it with the shapes."""
    empty = torch.empty(shape)
    assert read(flat(empty, "float32")).shape == empty.shape
    assert read({"shape": shape, "data": ""}).shape == empty.shape


def test_tensors_pass_if_their_dtype_does():
    """A tensor that another encoding read keeps its storage; int32 becomes int64."""
    tensor = torch.ones(2, dtype=torch.bfloat16)
    assert read(tensor) is tensor
    assert read(torch.tensor([1], dtype=torch.int32), "integer").dtype == torch.int64
    for role, dtype in [("number", torch.int64), ("boolean", torch.uint8), ("integer", torch.bool)]:
        name = str(dtype).removeprefix("torch.")
        expected = f"expected dtype {' or '.join(DTYPES[role])}; found {name}"
        assert refused(torch.ones(1, dtype=dtype), role) == expected


@pytest.mark.parametrize("offset", range(9))
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32", "int64", "bool"])
def test_bytes_are_read_at_every_offset(offset, dtype):
    """Where a tensor lies in the body does not change its bits; its address is aligned."""
    tensor = torch.tensor([[1, 0, 1], [0, 1, 1]]).to(getattr(torch, dtype))
    body = bytearray(b"\xff" * offset + raw(tensor) + b"\xff")
    found = from_bytes(body, offset, (2, 3), dtype)
    assert same_bytes(found, tensor)
    assert found.data_ptr() % found.itemsize == 0


@pytest.mark.parametrize(
    "document",
    [
        {"inputs": {"kind": "tensors", "query": [[CANARY], [CANARY, CANARY]]}},
        {"inputs": {"kind": "tensors", "query": [[CANARY, "31415.9265"]]}},
        {"inputs": {"kind": "tensors", "query": [[31415.9265e39]]}},
        {"inputs": {"kind": "tensors", "query": {"shape": [1], "31415.9265": 1, "data": [1]}}},
        {"inputs": {"kind": "tensors", "query": {"shape": [1], "data": "31415.9265"}}},
        {"inputs": {"kind": "tensors", "query": {"shape": [1], "dtype": "31415.9265"}}},
        {
            "inputs": {
                "kind": "tensors",
                "query": {"shape": [1], "dtype": "31415.9265", "data": [1]},
            }
        },
        {"inputs": {"kind": "tensors", "query": "31415.9265"}},
        {"mask": {"key_lengths": [CANARY]}},
        {"mask": {"key_lengths": "31415.9265"}},
        {"mask": {"allowed": [["31415.9265"]]}},
        {"mask": {"bias": [["31415.9265"]]}},
    ],
)
def test_messages_never_hold_the_callers_values(document):
    """What is wrong is told without repeating it."""
    with pytest.raises(Invalid) as caught:
        json_call.decode(AttentionRequest, bytearray(json.dumps(document).encode()), SETTINGS)
    told = [caught.value.detail, *(f.pointer + f.detail for f in caught.value.faults)]
    assert not any("31415" in text for text in told)


@pytest.mark.parametrize("data", [[], ""], ids=["list", "base64"])
@pytest.mark.parametrize("shape", [[0, 2, 2**62], [0, 2**31, 2**31], [2**40, 0, 2**40]], ids=str)
def test_a_vast_shape_without_elements_is_refused(shape, data):
    """An extent of 0 makes every product 0, but strides of the others would overflow."""
    assert "too large" in refused({"shape": shape, "data": data})
