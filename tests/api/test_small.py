"""What is parsed on the event loop is quickly parsed."""

import json

import pytest

from service.api import small
from service.api.small import small_answer, small_body
from service.attention.native import library
from service.encodings import JSON, SAFETENSORS
from service.job import prepare
from service.settings import Settings
from tests.builders import normal
from tests.files import file_of


def numbers(count):
    return bytearray(json.dumps({"inputs": {"query": [[0.25] * 64] * (count // 64)}}).encode())


@pytest.mark.parametrize("body", [b"", b"{}", json.dumps(["x" * 100] * 100).encode()])
def test_little_json_is_small_whatever_it_holds(body):
    """Up to 16 KiB."""
    assert small_body(bytearray(body), JSON, None)


def test_numbers_are_small_where_the_compiled_library_reads_them(monkeypatch):
    """Up to 256 KiB; through lists they would take ten times as long."""
    body = numbers(2**15)
    assert 2**17 < len(body) < 2**18
    assert small_body(body, JSON, None) == (library.available() is not None)
    monkeypatch.setattr(library, "available", lambda: None)
    assert not small_body(body, JSON, None)


@pytest.mark.parametrize("item", ["[]", "{}", '"1"', "null", "[1]", '{"1":1}'])
def test_much_of_anything_else_is_not(item):
    """Each is an object of the interpreter, which takes its time."""
    assert not small_body(bytearray(f"[{','.join([item] * 2**14)}]".encode()), JSON, None)


def test_more_numbers_are_not():
    """Beyond 256 KiB."""
    assert not small_body(numbers(2**17), JSON, None)


def test_a_file_is_small_by_its_header_too():
    """Tensors are looked at, not read."""
    assert small_body(bytearray(file_of({"query": normal(1, 8, 2048, 64)})), SAFETENSORS, None)
    assert not small_body(bytearray(file_of({"query": normal(1, 16, 2048, 65)})), SAFETENSORS, None)
    many = file_of({f"l{i}.query": normal(2, 2) for i in range(100)})
    assert len(many) < small._BINARY_BYTES
    assert not small_body(bytearray(many), SAFETENSORS, None)


def job(query_length, *include, heads=2, accept=SAFETENSORS):
    """Of random tensors of that length, answered in that encoding."""
    inputs = {"kind": "seeded", "heads": heads, "query_length": query_length}
    asked = {"inputs": inputs, "include": include}
    return prepare(
        bytearray(json.dumps(asked).encode()),
        encoding=JSON, accept=accept, request=None, settings=Settings(), threads=1,
    )  # fmt: skip


def test_tensors_that_are_sent_from_where_they_lie_make_no_answer_large():
    """Output and matrices are not written; JSON of them is."""
    assert small_answer(job(2048, "output", "weights", "diagnostics"))
    assert small_answer(job(32, "output", accept=JSON))
    assert not small_answer(job(2048, "output", accept=JSON))


def test_what_is_made_for_a_binary_answer_counts():
    """Rows are cast, and the figures of each head are text."""
    assert not small_answer(job(2048, "row_diagnostics"))
    assert not small_answer(job(8, "diagnostics", heads=512))
