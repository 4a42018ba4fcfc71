import json
from itertools import pairwise

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.attention import AttentionRequest
from service.errors import Invalid, LimitExceeded, Malformed
from service.settings import Settings
from service.wire import json_call
from service.wire.documents import count_of, parse, parse_request

SETTINGS = Settings()
TWICE = "a key is given twice in one object"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"}",
        b'{"a":}',
        b'{"a":1,}',
        b"{'a':1}",
        b'{"a":1} {}',
        b'{"a":1}x',
        b'{"a":01}',
        b'{"a":+1}',
        b'{"a":.5}',
        b'{"a":1.}',
        b'{"a":0x10}',
        b'{"a":tru}',
        b'{"a":"\n"}',
        b'{"a":"\\x41"}',
        b'{"a":"\xff"}',
        b"\xef\xbb\xbf{}",
        b'{"a":1}\x00',
        b"/* */ {}",
    ],
)
def test_what_is_not_json_is_malformed(text):
    """Whatever RFC 8259 does not allow is refused with its line and column."""
    with pytest.raises(Malformed, match=r"not JSON: .* line \d+, column \d+"):
        parse(text, SETTINGS)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b'{"a" 1}', "the body is not JSON: unexpected character, expected ':' after key at line"),
        (b'{"a":"\xff"}', "the body is not JSON: str is not valid UTF-8 at line"),
    ],
)
def test_the_parsers_words_are_told_where_they_are_true(text, said):
    """A missing colon is named; bytes that are no UTF-8 are not taken for surrogates."""
    with pytest.raises(Malformed) as error:
        parse(text, SETTINGS)
    assert said in error.value.detail


@pytest.mark.parametrize(
    "literal",
    ["NaN", "-NaN", "nan", "Infinity", "-Infinity", "inf", "1e999", "-1e999", "1e309", "2e308"],
)
def test_non_finite_literals_are_malformed(literal):
    """NaN and Infinity are no JSON, and a number past float64 does not become infinity."""
    for text in (f'{{"a":{literal}}}', f'{{"a":[1,[{literal}]]}}'):
        with pytest.raises(Malformed, match="not JSON"):
            parse(text.encode(), SETTINGS)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"[]", "an array"),
        (b'[{"a":1}]', "an array"),
        (b'"a"', "a string"),
        (b"3", "a number"),
        (b"3.5", "a number"),
        (b"true", "a boolean"),
        (b"null", "null"),
    ],
)
def test_a_document_is_an_object(text, found):
    """Other JSON values are refused by what they are."""
    with pytest.raises(Malformed, match=f"expected a JSON object; found {found}"):
        parse(text, SETTINGS)


@pytest.mark.parametrize(
    "text",
    [
        '{"a":1,"a":1}',
        '{"a":1,"b":2,"a":3}',
        '{"a":{"b":1,"b":2}}',
        '{"a":[{"b":1,"b":2}]}',
        '{"a":[[[{"b":[],"b":[]}]]]}',
        '{"a":{"b":1},"a":{"c":{"d":2}}}',
        '{"a":[1,2,3],"a":4}',
        '{"":1,"":2}',
        '{"a":1,"\\u0061":2}',
        '{"\\u0061":1,"\\u0061":2}',
        '{"é":1,"\\u00e9":2}',
        '{"😀":1,"\\ud83d\\ude00":2}',
        '{"a\\/b":1,"a/b":2}',
        '{"\\"":1,"\\u0022":2}',
        '{"\\\\":1,"\\u005c":2}',
        '{"a:":1,"a:":2}',
        '{"a":":","a":"::"}',
        '{"a":"\\\\","a":":"}',
        '{"a":"\\":\\"","a":":"}',
        '{ "a" : 1 ,\n "a"\t:\r 2 }',
    ],
)
def test_a_key_given_twice_is_malformed(text):
    """Equal keys of one object are refused at every depth, however they are spelled."""
    with pytest.raises(Malformed, match=TWICE):
        parse(text.encode(), SETTINGS)


@pytest.mark.parametrize(
    "text",
    [
        '{"a":{"a":{"a":1}}}',
        '{"a":[{"a":1},{"a":2}]}',
        '{"a":1,"A":2,"a ":3}',
        '{"a:b":1,"a:c":2}',
        '{":":":",":::":":::"}',
        '{"a":"b:c","d":"\\":\\""}',
        '{"a":"\\\\","b":":"}',
        '{"a":"\\\\\\":","b":"\\\\\\\\"}',
        '{"a":"\\n\\\\:\\\\","b:":"\\u005c:"}',
        '{"a":"{\\"b\\":1,\\"b\\":2}"}',
        '{"é":1,"e\\u0301":2}',
        '{"a":[],"b":{},"c":"","d":null}',
        "{}",
        " \r\n\t{ } ",
    ],
)
def test_different_keys_pass(text):
    """Colons, quotes and backslashes inside keys and strings are never taken for a repetition."""
    assert parse(text.encode(), SETTINGS) == json.loads(text)


def some_text():
    """Strings rich in what could be mistaken for structure."""
    return st.text(st.sampled_from('a:"\\{}[], \n/é'), max_size=6)


def documents():
    """Nested documents whose keys and strings look like JSON."""
    leaves = some_text() | st.integers(-3, 3) | st.none() | st.booleans()
    inner = st.recursive(
        leaves,
        lambda of: st.lists(of, max_size=3) | st.dictionaries(some_text(), of, max_size=3),
        max_leaves=12,
    )
    return st.dictionaries(some_text(), inner, max_size=4)


@given(documents(), st.booleans(), st.sampled_from([None, 1]))
def test_every_document_is_read_as_it_is(document, escaped, indent):
    """No document without a repetition is refused, whatever its strings hold."""
    text = json.dumps(document, ensure_ascii=escaped, indent=indent)
    assert parse(text.encode(), SETTINGS) == document


@given(documents(), some_text(), st.data())
def test_every_repetition_is_found(document, key, data):
    """A repeated key is refused wherever in the document it stands."""
    pair = f"{json.dumps(key)}:{json.dumps(data.draw(some_text()))}"
    twice = f"{{{pair},{pair}}}"
    marker = "only here"
    text = json.dumps({**document, "z": data.draw(st.sampled_from([marker, [marker]]))})
    with pytest.raises(Malformed, match=TWICE):
        parse(text.replace(json.dumps(marker), twice).encode(), SETTINGS)


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_nesting_is_bounded(opening, closing):
    """A document may nest as deep as the setting says, and one level more is over the limit."""
    depth = SETTINGS.max_json_depth
    wrap = lambda levels: f'{{"b":{opening * levels}0{closing * levels}}}'  # noqa: E731
    assert "b" in parse(wrap(depth - 1).encode(), SETTINGS)
    with pytest.raises(LimitExceeded) as caught:
        parse(wrap(depth).encode(), SETTINGS)
    assert caught.value.setting == "ATTENTION_MAX_JSON_DEPTH"
    assert (caught.value.needed, caught.value.allowed) == (depth + 1, depth)


@pytest.mark.parametrize("levels", [1_000, 100_000])
def test_absurd_nesting_is_an_error_of_the_caller(levels):
    """Nesting that would overflow a stack is refused like any other."""
    with pytest.raises((Malformed, LimitExceeded)):
        parse(b'{"a":' + b"[" * levels + b"]" * levels + b"}", SETTINGS)


@pytest.mark.parametrize("text", ['{"a":"\\ud800"}', '{"\\udc00":1}', '{"a":"\\ud800\\u0041"}'])
def test_lone_surrogates_are_malformed(text):
    """Half a surrogate pair has no UTF-8 form and could not be answered."""
    with pytest.raises(Malformed, match="not JSON"):
        parse(text.encode(), SETTINGS)


def test_large_integers_keep_their_kind_up_to_64_bits():
    """An integer past 64 bits is read as a float, and is then refused where integers belong."""
    found = parse(b'{"a":18446744073709551615,"b":18446744073709551616}', SETTINGS)
    assert found["a"] == 2**64 - 1
    assert isinstance(found["b"], float)
    assert found["b"] == 2.0**64
    body = bytearray(b'{"inputs":{"kind":"seeded","seed":18446744073709551616}}')
    with pytest.raises(Invalid, match="/inputs/seed"):
        json_call.decode(AttentionRequest, body, SETTINGS)


def test_values_are_bounded():
    """More values than the setting allows are refused before they are parsed."""
    settings = Settings(max_json_values=5)
    assert parse(b'{"a":[1,2,3]}', settings) == {"a": [1, 2, 3]}
    for more in (b'{"a":[1,2,3,4]}', b'{"a":[[1,2,3]]}', b'{"a":[[],[],{}]}'):
        with pytest.raises(LimitExceeded) as caught:
            parse(more, settings)
        assert caught.value.setting == "ATTENTION_MAX_JSON_VALUES"


@pytest.mark.parametrize("length", [0, 1, 2**17 - 1, 2**17, 2**17 + 1, 2**18 + 5])
def test_characters_are_counted_over_all_pieces(length):
    """As the built-in way counts them."""
    body = (b"a,[{" * (length // 4 + 1))[:length]
    assert count_of(b",[{", body) == sum(body.count(c) for c in (b",", b"[", b"{"))
    assert count_of(b"a", bytearray(body)) == body.count(b"a")


@pytest.mark.parametrize("body", [b"", b" ", b"\r\n\t "])
def test_an_empty_body_is_the_empty_request(body):
    """Nothing at all asks for everything by default."""
    assert json_call.decode(AttentionRequest, bytearray(body), SETTINGS) == json_call.decode(
        AttentionRequest, bytearray(b"{}"), SETTINGS
    )


@pytest.mark.parametrize(
    "wrap",
    [
        lambda crowd: crowd,
        lambda crowd: {"mask": crowd},
        lambda crowd: {"mask": {"window": crowd}},
        lambda crowd: {"include": [crowd]},
        lambda crowd: {"include": [*["output"] * 32, crowd]},
    ],
)
def test_an_object_with_absurdly_many_fields_is_refused(wrap):
    """No object of a request has more than 64 fields, so that unknown ones stay few."""
    parse_request(orjson.dumps(wrap({str(i): i for i in range(64)})), SETTINGS)
    with pytest.raises(Invalid, match="at most 64 fields"):
        parse_request(orjson.dumps(wrap({str(i): i for i in range(65)})), SETTINGS)


def test_garbage_collection_is_as_it_was():
    """Parsing leaves the collector on, also after an error."""
    import gc

    assert gc.isenabled()
    for text in (b"{}", b"{"):
        try:
            parse(text, SETTINGS)
        except Malformed:
            assert text == b"{"
        assert gc.isenabled()


def test_line_and_column_point_at_the_fault():
    """The place of an error is counted from 1 and grows with the text before it."""
    places = []
    for newlines in range(3):
        with pytest.raises(Malformed) as caught:
            parse(b"{" + b"\n" * newlines + b"x", SETTINGS)
        places.append(int(caught.value.detail.split("line ")[1].split(",")[0]))
    assert all(after == before + 1 for before, after in pairwise(places))
