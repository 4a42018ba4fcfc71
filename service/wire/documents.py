"""JSON text to a document, stricter than the parser: no duplicate keys, bounded nesting."""

import re

import orjson

from service.errors import Malformed
from service.limits import within
from service.settings import Settings

_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)


def parse(body: bytes | bytearray, settings: Settings) -> dict[str, object]:
    """Parse a JSON object.

    Raises:
        Malformed: not JSON (NaN and Infinity are not), not an object, or a key given twice.
        LimitExceeded: nested too deeply.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Malformed(
            f"the body is not JSON: {error.msg.split(':')[0]} at line {error.lineno}, column "
            f"{error.colno}"
        ) from None
    if not isinstance(document, dict):
        raise Malformed(f"expected a JSON object; found {_kind(document)}")
    _refuse_duplicates(body, document, settings)
    return document


def _kind(value: object) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _refuse_duplicates(
    body: bytes | bytearray, document: dict[str, object], settings: Settings
) -> None:
    """Count keys: in valid JSON every colon outside strings follows a key.

    orjson keeps the last of two equal keys without a word, so the document then holds fewer keys
    than the text. The colons of all strings are counted only where the quick count differs.
    """
    keys = _count_keys(document, settings)
    if body.count(b":") == keys:
        return
    if _STRING.sub(b"", body).count(b":") != keys:
        raise Malformed("a key is given twice in one object")


def _count_keys(document: dict[str, object], settings: Settings) -> int:
    keys, depth = 0, 0
    level: list[object] = [document]
    while level:
        depth += 1
        within(settings, "max_json_depth", depth, "the nesting of the body")
        inner: list[object] = []
        for value in level:
            if isinstance(value, dict):
                keys += len(value)
                inner += [v for v in value.values() if type(v) in (dict, list)]
            elif isinstance(value, list) and not {dict, list}.isdisjoint(set(map(type, value))):
                inner += [v for v in value if type(v) in (dict, list)]
        level = inner
    return keys
