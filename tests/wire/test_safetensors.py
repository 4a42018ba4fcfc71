import json
import struct
from contextlib import suppress

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from schemas.attention import AttentionRequest
from service.errors import Invalid, LimitExceeded, Malformed, ServiceError, UnknownEntry
from service.settings import Settings
from service.wire.answers import Answer, Part
from service.wire.safetensors_answer import encode
from service.wire.safetensors_call import decode
from service.wire.safetensors_header import read_header
from tests.builders import normal, same_bytes
from tests.files import EXAMPLE, file_of, file_with, framed, header_of, raw

SETTINGS = Settings()
GOLDEN = (
    b"\x3c\x00\x00\x00\x00\x00\x00\x00"
    b'{"query":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}}'
    b"\x00\x00\x80\x3f\x00\x00\x00\xc0"
)
QUERY, KEY, VALUE = normal(3, 5, seed=1), normal(7, 5, seed=2), normal(7, 2, seed=3)


def read(content, request=None, limits=SETTINGS):
    return decode(AttentionRequest, bytearray(content), limits, request)


def one(content, request=None):
    """The only request of a file without groups."""
    ((name, found),) = read(content, request).requests
    assert name is None
    return found


def refused(content, kind, request=None):
    """The detail with which a file is refused."""
    with pytest.raises(kind) as caught:
        read(content, request)
    return caught.value.detail


def test_golden_bytes_are_read():
    """A file written down byte by byte is a query of two numbers."""
    assert one(GOLDEN).inputs.query.tolist() == [[1, -2]]
    assert file_of({"query": torch.tensor([[1.0, -2.0]])}).replace(b" ", b"")[8:] == GOLDEN[8:]


@given(
    st.lists(
        st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
        min_size=3,
        max_size=3,
    ),
    st.lists(st.integers(1, 5), min_size=2, max_size=4),
    st.integers(0, 9),
)
def test_tensors_are_what_the_library_loads(dtypes, shape, padding):
    """Every dtype, shape and header length gives the bits that safetensors itself gives."""
    names = ("query", "key", "value")
    tensors = {
        n: normal(*shape, seed=i).to(d) for i, (n, d) in enumerate(zip(names, dtypes, strict=True))
    }
    ours = one(file_of(tensors, padding=padding)).inputs
    theirs = load(save(tensors))
    assert all(same_bytes(getattr(ours, name), theirs[name]) for name in names)


def test_files_of_the_library_are_read():
    """What safetensors writes, with its own order and padding, is read entry by entry."""
    tensors = {
        "query": QUERY.half(),
        "key": KEY.double(),
        "mask.allowed": torch.rand(3, 7) > 0.5,
        "mask.bias": normal(3, 7),
    }
    found = one(save(tensors, {"request": '{"compute":{"dtype":"float32"}}'}))
    assert same_bytes(found.inputs.query, tensors["query"])
    assert same_bytes(found.inputs.key, tensors["key"])
    assert same_bytes(found.mask.allowed, tensors["mask.allowed"])
    assert same_bytes(found.mask.bias, tensors["mask.bias"])
    assert found.inputs.value is None


def test_a_tensor_stays_where_it_arrived():
    """An aligned tensor is a view of the body, not a copy."""
    body = bytearray(file_of({"query": QUERY}, padding=-len(file_of({"query": QUERY})) % 8))
    ((_, found),) = decode(AttentionRequest, body, SETTINGS, None).requests
    body[-4:] = struct.pack("<f", 42.0)
    assert found.inputs.query[-1, -1] == 42


@pytest.mark.parametrize("padding", range(8))
def test_an_odd_header_gives_the_same_tensors(padding):
    """The header's length does not change the bits, aligned or not."""
    tensors = {"query": QUERY.double(), "mask.allowed": torch.rand(3, 3) > 0.5}
    found = one(file_of(dict(reversed(tensors.items())), padding=padding))
    assert same_bytes(found.inputs.query, tensors["query"])
    assert same_bytes(found.mask.allowed, tensors["mask.allowed"])


def test_the_metadata_request_is_the_rest_of_the_request():
    """The entry request of the metadata holds what is no tensor."""
    request = {"mask": {"causal": "upper_left"}, "include": ["output"], "tensor_format": "flat"}
    found = one(file_of({"query": QUERY}, {"request": json.dumps(request), "format": "pt"}))
    assert (found.mask.causal, found.include, found.tensor_format) == (
        "upper_left",
        ["output"],
        "flat",
    )


def test_the_query_parameter_wins():
    """The request in the query string replaces that of the metadata, whole."""
    content = file_of({"query": QUERY}, {"request": '{"tensor_format":"flat","include":[]}'})
    found = one(content, '{"tensor_format":"base64"}')
    assert (found.tensor_format, found.include) == ("base64", None)
    broken = file_of({"query": QUERY}, {"request": "{broken"})
    assert one(broken, "{}").inputs.query.shape == (3, 5)


def test_without_a_request_everything_is_default():
    """Metadata without request, and no metadata at all, ask for the defaults."""
    for metadata in (None, {}, {"format": "pt"}):
        found = one(file_of({"query": QUERY}, metadata))
        assert found.include is None
        assert found.inputs.kind == "tensors"


def test_a_file_without_tensors_may_ask_for_a_seed():
    """A file is the same request as JSON, so it may hold no tensor if the request has inputs."""
    found = one(framed(b'{"__metadata__":{"request":"{\\"inputs\\":{\\"kind\\":\\"seeded\\"}}"}}'))
    assert found.inputs.kind == "seeded"
    assert one(framed(b"{}"), '{"inputs":{"kind":"seeded"}}').inputs.kind == "seeded"
    for content in (framed(b"{}"), file_of({"key_lengths": torch.tensor([1])})):
        assert "the file holds none of query, key, value" in refused(content, Invalid)


@pytest.mark.parametrize("request_text", ["{", "[]", '{"a":1,"a":2}', '{"a":NaN}', "", "\ud800"])
def test_a_broken_request_is_malformed_and_says_where(request_text):
    """The request beside the tensors is JSON as strict as a body, wherever it stands."""
    detail = refused(GOLDEN, Malformed, request_text)
    assert detail.startswith("query parameter request: ")
    if request_text != "\ud800":
        content = file_of({"query": QUERY}, {"request": request_text})
        assert refused(content, Malformed).startswith("metadata entry request: ")


def test_inputs_and_masks_are_given_once():
    """The request must not give again what the file gives, and the file not twice."""
    content = file_of({"query": QUERY, "mask.bias": normal(3, 3)})
    assert "inputs are the tensors of the file" in refused(
        content, Invalid, '{"inputs":{"kind":"seeded"}}'
    )
    given_twice = '{"mask":{"bias":[[0]]}}'
    assert "both in the file and in the request" in refused(content, Invalid, given_twice)
    lengths = torch.tensor([3])
    twice = file_of({"query": QUERY, "key_lengths": lengths, "mask.key_lengths": lengths})
    assert "key_lengths is given twice in the file" in refused(twice, Invalid)
    assert one(content, '{"mask":{"causal":"upper_left"}}').mask.bias.shape == (3, 3)


@pytest.mark.parametrize("name", ["key_lengths", "mask.key_lengths", "mask.offset"])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_integers_have_32_or_64_bits(name, dtype):
    """Lengths and offsets come as frameworks store them."""
    found = one(file_of({"query": QUERY, name: torch.tensor([2], dtype=dtype)})).mask
    vector = found.offset if name == "mask.offset" else found.key_lengths
    assert vector.tolist() == [2]
    assert vector.dtype == torch.int64


def test_groups_come_in_natural_order():
    """layer2 stands before layer10, and names without digits in the order of the alphabet."""
    names = ["layer10", "layer2", "layer1", "b", "a", "layer2.self", "x²", "10", "9", "é"]
    files = file_of({f"{name}.query": QUERY for name in names})
    found = [name for name, _ in read(files).requests]
    order = ["a", "b", "layer1", "layer2", "layer2.self", "layer10", "x²", "é", "9", "10"]
    assert [n for n in found if n.startswith("layer")] == [n for n in order if "layer" in n]
    assert found.index("9") < found.index("10")
    assert sorted(found) == sorted(names)


def test_each_group_has_its_own_tensors():
    """The entries of a group go together, whatever the order of the file."""
    tensors = {f"layer{i}.{n}": normal(2, 3, seed=10 * i + j) for i in (1, 0) for j, n in
               enumerate(("value", "query", "key"))}  # fmt: skip
    call = read(file_of(tensors))
    assert call.grouped
    for name, request in call.requests:
        for role in ("query", "key", "value"):
            assert same_bytes(getattr(request.inputs, role), tensors[f"{name}.{role}"])


def test_masks_are_shared_unless_a_group_has_its_own():
    """A mask without a prefix serves all groups; one with a prefix replaces it there."""
    shared, own = torch.tensor([3]), torch.tensor([2])
    content = file_of(
        {
            "a.query": QUERY,
            "b.query": QUERY,
            "key_lengths": shared,
            "b.mask.key_lengths": own,
            "b.mask.bias": normal(3, 3),
        }
    )
    by_name = dict(read(content).requests)
    assert by_name["a"].mask.key_lengths.tolist() == [3]
    assert by_name["a"].mask.bias is None
    assert by_name["b"].mask.key_lengths.tolist() == [2]
    assert by_name["b"].mask.bias.shape == (3, 3)


@pytest.mark.parametrize("kind", ["logits", "weights"])
def test_groups_may_hold_logits_or_weights(kind):
    """What a framework computed is analysed layer by layer too, with a value or without."""
    content = file_of({f"l0.{kind}": normal(3, 7), f"l1.{kind}": normal(3, 7), "l1.value": VALUE})
    first, second = (request.inputs for _, request in read(content).requests)
    assert first.kind == second.kind == kind
    assert first.value is None
    assert same_bytes(second.value, VALUE)


def test_queries_win_over_stored_results():
    """Beside a query, stored weights are no input; beside logits, stored weights are none."""
    both = {"query": QUERY, "weights": normal(3, 3)}
    assert "weights" in refused(file_of(both), UnknownEntry)
    call = read(file_of(both), '{"ignore_unknown":true}')
    assert call.ignored == ("weights",)
    assert call.requests[0][1].inputs.kind == "tensors"
    logits = {"a.logits": normal(3, 3), "a.weights": normal(3, 3)}
    call = read(file_of(logits), '{"ignore_unknown":true}')
    assert call.ignored == ("a.weights",)
    assert call.requests[0][1].inputs.kind == "logits"


@pytest.mark.parametrize("name", ["output", "Query", "query ", "", "mask", "mask.", "ключ", "²"])
@pytest.mark.parametrize("prefix", ["", "layer0.", "².", "~/."])
def test_unknown_entries_are_refused_or_ignored_and_listed(name, prefix):
    """An entry that means nothing is refused with what is known, or ignored and listed."""
    content = file_of({f"{prefix}query": QUERY, f"{prefix}{name}": normal(2)})
    detail = refused(content, UnknownEntry)
    for known in ("query", "logits", "mask.allowed", "key_lengths", "ignore_unknown"):
        assert known in detail
    assert read(content, '{"ignore_unknown":true}').ignored == (f"{prefix}{name}",)
    for not_true in ("false", "1", '"true"'):
        with pytest.raises(ServiceError):
            read(content, f'{{"ignore_unknown":{not_true}}}')


def test_masks_of_a_group_without_inputs_are_unknown():
    """A mask whose group is not there would silently do nothing, so it is refused."""
    content = file_of({"a.query": QUERY, "b.mask.key_lengths": torch.tensor([1])})
    assert "b.mask.key_lengths" in refused(content, UnknownEntry)
    assert read(content, '{"ignore_unknown":true}').ignored == ("b.mask.key_lengths",)


def test_many_unknown_entries_are_told_shortly():
    """Five names are shown, cut and printable, and the rest counted."""
    content = file_of({f"{i}\x00{'x' * 200}": normal(1) for i in range(30)})
    detail = refused(content, UnknownEntry)
    assert "and 25 more" in detail
    assert "\x00" not in detail
    assert "x" * 65 not in detail
    assert len(detail) < 800


def test_groups_do_not_mix_with_bare_inputs():
    """Entries with and without a group in one file are refused."""
    for stray in ("query", "key", "logits"):
        content = file_of({"layer0.query": QUERY, stray: QUERY})
        assert "with and without a group" in refused(content, Invalid)


def test_what_is_wrong_with_a_group_names_it():
    """An error of one of many groups says which one it is about."""
    content = file_of({"layer0.query": QUERY, "layer7.key": KEY})
    assert refused(content, Invalid).startswith("group layer7: /inputs/query")
    content = file_of({"layer0.query": QUERY, "layer8.query": QUERY.bool()})
    assert refused(content, Invalid).startswith("group layer8: ")


def test_groups_are_limited():
    """More groups than the setting allows are refused before any is read."""
    content = file_of({f"{i}.query": QUERY for i in range(4)})
    assert len(read(content, limits=Settings(max_groups=4)).requests) == 4
    with pytest.raises(LimitExceeded) as caught:
        read(content, limits=Settings(max_groups=3))
    assert (caught.value.setting, caught.value.needed) == ("ATTENTION_MAX_GROUPS", 4)


@pytest.mark.parametrize(
    ("dtype", "size"), [("F8_E4M3", 1), ("U8", 1), ("I8", 1), ("C64", 8), ("f32", 4), ("x\x00", 1)]
)
def test_other_dtypes_are_invalid(dtype, size):
    """A dtype that is not computed with is refused with those that are, unless it is ignored."""
    content = file_with([("query", dtype, [2, 2], b"\0" * 4 * size)])
    detail = refused(content, Invalid)
    assert "accepted are F16, BF16, F32, F64, BOOL, I32, I64" in detail
    assert "\x00" not in detail
    beside = file_with([("query", "F32", [1, 1], b"\0" * 4), ("output", dtype, [1], b"\0" * size)])
    assert read(beside, '{"ignore_unknown":true}').ignored == ("output",)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("query", "BOOL"), ("query", "I64"), ("mask.allowed", "F32"), ("key_lengths", "F32")],
)
def test_a_dtype_fits_its_entry(name, dtype):
    """A dtype that is known but does not belong there is refused with those that do."""
    size = {"BOOL": 1, "F32": 4, "I64": 8}[dtype]
    entries = [("query", "F32", [1, 1], b"\0" * 4)] if name != "query" else []
    detail = refused(file_with([*entries, (name, dtype, [1, 1], b"\0" * size)]), Invalid)
    assert "expected dtype" in detail


@pytest.mark.parametrize("byte", [2, 128, 255])
def test_a_boolean_byte_is_0_or_1(byte):
    """A mask whose bytes are other numbers is refused and not taken for True."""
    entries = [("query", "F32", [1, 1], b"\0" * 4), ("mask.allowed", "BOOL", [1, 1], bytes([byte]))]
    assert "must be 0 or 1" in refused(file_with(entries), Invalid)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "at least 8 bytes; found 0"),
        (b"\x02\0\0\0\0\0\0", "at least 8 bytes; found 7"),
        (framed(b"{}")[:9], "claims 2 bytes"),
        (b"\xff" * 8 + b"{}", "claims 18,446,744,073,709,551,615 bytes"),
        (struct.pack("<Q", 2**40) + b"{}", "claims 1,099,511,627,776 bytes"),
        (struct.pack("<Q", 5 * 2**20) + b"{" + b" " * (5 * 2**20), "allowed are 4,194,304"),
        (framed(b""), "starts with an opening brace"),
        (framed(b" {}"), "starts with an opening brace"),
        (framed(b"[]"), "starts with an opening brace"),
        (framed(b"{"), "safetensors header: the body is not JSON"),
        (framed(b'{"a":NaN}'), "safetensors header: the body is not JSON"),
        (framed(b'{"\xff":1}'), "safetensors header: the body is not JSON"),
        (framed(b'{"__metadata__":[]}'), "metadata must map names to strings"),
        (framed(b'{"__metadata__":{"a":1}}'), "metadata must map names to strings"),
        (framed(b'{"__metadata__":null}'), "metadata must map names to strings"),
        (framed(b'{"a":1}'), "exactly dtype, shape and data_offsets"),
        (framed(b'{"a":{"dtype":"F32","shape":[]}}'), "exactly dtype, shape and data_offsets"),
        (GOLDEN + b"\0", "end at byte 76; the body has 77"),
        (GOLDEN[:-1], "end at byte 76; the body has 75"),
        (framed(b"{}", b"\0"), "end at byte 10; the body has 11"),
    ],
)
def test_what_is_no_file_is_malformed(content, message):
    """Truncated, overlong and otherwise broken files are told as such."""
    assert message in refused(content, Malformed)


def test_a_name_given_twice_is_malformed():
    """Two entries of one name, or two of one field, are refused, not merged."""
    entry = b'"query":{"dtype":"F32","shape":[1,1],"data_offsets":[%d,%d]}'
    header = b"{" + entry % (0, 4) + b"," + entry % (4, 8) + b"}"
    assert "a key is given twice" in refused(framed(header, b"\0" * 8), Malformed)
    header = b'{"query":{"dtype":"F32","shape":[1,1],"shape":[1,1],"data_offsets":[0,4]}}'
    assert "a key is given twice" in refused(framed(header, b"\0" * 4), Malformed)
    header = b'{"__metadata__":{"request":"{}","request":"{}"}}'
    assert "a key is given twice" in refused(framed(header), Malformed)


def entry_with(**changes):
    """A file of one entry with some fields changed."""
    fields = {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8], **changes}
    return framed(json.dumps({"query": fields}).encode(), b"\0" * 8)


@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": 3},
        {"dtype": None},
        {"shape": 2},
        {"shape": "12"},
        {"shape": [-1, -2]},
        {"shape": [1.0, 2.0]},
        {"shape": [True, 2]},
        {"shape": [[1], 2]},
        {"shape": [2**63, 0]},
        {"data_offsets": [0]},
        {"data_offsets": [0, 8, 8]},
        {"data_offsets": [-8, 0]},
        {"data_offsets": [0, 8.0]},
        {"data_offsets": {"0": 8}},
        {"shape": [1] * 17},
        {"extra": 1},
    ],
)
def test_the_fields_of_an_entry_are_strict(changes):
    """Wrong types, negative numbers, fractions and further fields are refused."""
    assert "safetensors entry has" in refused(entry_with(**changes), Malformed)


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": [1, 3]},
        {"shape": []},
        {"shape": [0]},
        {"dtype": "F64"},
        {"dtype": "BOOL"},
        {"data_offsets": [8, 0]},
        {"data_offsets": [0, 7]},
        {"data_offsets": [1, 8]},
    ],
)
def test_length_dtype_and_shape_agree(changes):
    """Bytes that the shape does not need, or lacks, are refused."""
    assert "cannot span" in refused(entry_with(**changes), Malformed)


def placed(*places):
    """A file of entries of 4 bytes each that claim these places, over 16 bytes."""
    entries = {
        f"e{i}": {"dtype": "F32", "shape": [1], "data_offsets": [start, start + 4]}
        for i, start in enumerate(places)
    }
    return framed(json.dumps(entries).encode(), b"\0" * 16)


@pytest.mark.parametrize(
    "places",
    [(0, 4, 12), (4, 8, 12), (0, 4, 4, 8), (0, 0, 4, 8), (0, 2, 6, 10), (0, 4, 8, 2**40)],
)
def test_holes_and_overlaps_are_malformed(places):
    """Bytes that belong to no entry, or to two, are refused."""
    with pytest.raises(Malformed, match="without holes or overlaps"):
        read_header(bytearray(placed(*places)), SETTINGS)


def test_entries_may_stand_in_any_order():
    """The header's order need not be that of the data."""
    entries, _ = read_header(bytearray(placed(12, 0, 8, 4)), SETTINGS)
    assert [entry.name for entry in entries] == ["e1", "e3", "e2", "e0"]


def test_files_with_one_header_have_their_own_tensors():
    """A header that has been read before says where they lie, and nothing of what they are."""
    options = '{"mask":{"causal":"upper_left"},"include":["output"]}'
    first, second = (file_of({"query": normal(3, 5, seed=seed)}) for seed in (7, 8))
    found = [one(content, options) for content in (first, second, first)]
    for request, seed in zip(found, (7, 8, 7), strict=True):
        assert same_bytes(request.inputs.query, normal(3, 5, seed=seed))
        assert request.mask.causal == "upper_left"
    assert len({id(request.mask) for request in found}) == 3


def test_a_known_header_is_held_against_each_body_and_setting():
    """What was in order once need not be so again."""
    content = file_of({"query": QUERY})
    read(content)
    for other in (content[:-4], content + b"\0\0\0\0"):
        assert "bytes" in refused(other, Malformed)
    with pytest.raises(LimitExceeded):
        read(content, limits=Settings(max_elements=QUERY.numel() - 1))
    with pytest.raises(LimitExceeded):
        read(content, '{"include":["output"]}', Settings(max_json_values=3))


def test_a_giant_shape_is_over_the_limit():
    """Extents whose product overflows every integer are compared, not multiplied out in memory."""
    content = entry_with(shape=[2**62] * 16)
    with pytest.raises(LimitExceeded) as caught:
        read(content)
    assert caught.value.needed == 2 ** (62 * 16)


def test_names_are_bounded():
    """A name longer than any framework's is refused, since an answer repeats it for each head."""
    assert dict(read(file_of({f"{'g' * 250}.query": QUERY})).requests)
    assert "at most 256 characters" in refused(file_of({f"{'g' * 251}.query": QUERY}), Malformed)


BASE = file_of(
    {
        "l1.query": QUERY,
        "l1.key": KEY,
        "l1.mask.allowed": torch.ones(3, 7, dtype=torch.bool),
        "l2.logits": normal(2, 2),
        "key_lengths": torch.tensor([1]),
        "other": torch.ones(1),
    },
    {"request": '{"ignore_unknown":true,"mask":{"causal":"none"}}'},
)
HEADER_END = 8 + int.from_bytes(BASE[:8], "little")


@settings(max_examples=400)
@given(
    st.lists(st.tuples(st.integers(0, HEADER_END + 40), st.integers(0, 255)), max_size=4),
    st.integers(0, 60),
)
@example([], 0)
def test_mutated_files_never_surprise(changes, cut):
    """Whatever bytes arrive, they are read or refused with an error made for the caller."""
    body = bytearray(BASE)
    for place, byte in changes:
        body[place] = byte
    del body[len(body) - cut :]
    with suppress(ServiceError):
        read(body)
        assert cut == 0


@settings(max_examples=200)
@given(
    st.dictionaries(
        st.sampled_from(
            ["query", "key", "a.query", "b.mask.bias", ".query", "mask.query", "²", "\x00.key"]
        ),
        st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(["F32", "BOOL", "I32", "BF16", "F8_E4M3", ""]),
                "shape": st.lists(st.sampled_from([0, 1, 2, 3, 2**40, 2**62]), max_size=5),
                "data_offsets": st.tuples(st.integers(0, 16), st.integers(0, 16)),
            }
        ),
        max_size=3,
    ),
    st.binary(max_size=16),
    st.booleans(),
)
def test_invented_headers_never_surprise(entries, data, ignore):
    """Well-formed headers that make no sense are refused with an error made for the caller."""
    request = json.dumps({"ignore_unknown": ignore})
    with suppress(ServiceError):
        read(framed(json.dumps(entries).encode(), data), request)


def test_a_vast_shape_without_elements_is_refused():
    """Found by the test above: an extent of 0 lets every other pass the bound on elements."""
    entry = {"dtype": "F32", "shape": [0, 2, 2**62], "data_offsets": [0, 0]}
    with pytest.raises(Invalid, match="too large"):
        read(framed(json.dumps({"query": entry}).encode()), None)


def test_the_shipped_example_is_read_whole():
    """The real model's file has six groups, its lengths serve all, its results are ignored."""
    call = read(EXAMPLE.read_bytes(), '{"ignore_unknown":true}')
    theirs = load(EXAMPLE.read_bytes())
    assert [name for name, _ in call.requests] == [f"layer{i}" for i in range(6)]
    for name, request in call.requests:
        for role in ("query", "key", "value"):
            assert same_bytes(getattr(request.inputs, role), theirs[f"{name}.{role}"])
        assert request.mask.key_lengths.tolist() == theirs["key_lengths"].tolist()
    results = {f"layer{i}.{n}" for i in range(6) for n in ("weights", "output")}
    assert set(call.ignored) == results


def answer_of(tensors, rows=None, name=None):
    return Answer([Part(name, {"a": 1}, tensors, rows or {})], {"b": 2})


def library_file(content, tensors):
    """The file that the library writes of the same tensors and metadata."""
    return save(tensors, read_header(bytearray(content), SETTINGS)[1])


def test_answers_are_files_the_library_loads():
    """Output tensors have their bits, special values included, and the rest is in response."""
    tensors = {
        "output": torch.tensor([[float("nan"), float("inf"), -0.0]]),
        "logits": torch.tensor([[-float("inf")]], dtype=torch.float64),
        "weights": torch.rand(2, 3).to(torch.bfloat16),
    }
    rows = {"argmax": torch.tensor([[[-1, 2]]])}
    content = bytes(encode(answer_of(tensors, rows)))
    assert content == library_file(content, tensors | {"diagnostics.argmax": rows["argmax"]})
    theirs = load(content)
    assert theirs.keys() == {"output", "logits", "weights", "diagnostics.argmax"}
    assert all(same_bytes(theirs[name], tensor) for name, tensor in tensors.items())
    assert theirs["diagnostics.argmax"].tolist() == [[[-1, 2]]]
    assert json.loads(header_of(content)["__metadata__"]["response"]) == {"a": 1, "b": 2}


def test_an_answer_of_groups_prefixes_its_tensors():
    """Each group's tensors carry its name, and response lists the groups."""
    part = Part("l0", {"a": 1}, {"output": torch.ones(1)}, {"entropy": torch.ones(1, 1, 1)})
    content = bytes(encode(Answer([part], {"ranking": []})))
    assert load(content).keys() == {"l0.output", "l0.diagnostics.entropy"}
    response = json.loads(header_of(content)["__metadata__"]["response"])
    assert response == {"groups": [{"name": "l0", "a": 1}], "ranking": []}


def test_views_are_written_as_they_look():
    """A transposed view is written in its own order."""
    tensor = normal(3, 5).T
    assert same_bytes(
        load(bytes(encode(answer_of({"output": tensor}))))["output"], tensor.contiguous()
    )
    assert raw(tensor) == raw(tensor.contiguous())
