"""JSON documents with something changed in one place."""

import json
import random
from typing import Any

from tests.mutations import places, replaced

# fmt: off
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3, 0.5, -0.0, 1e308, -1e308, 5e-324, 2**31, 2**53, 2**63 - 1,
    2**63, 2**70, -(2**63), "", "x", "1/sqrt(d_k)", "cuda:0", "softmax", "\x00", "\ud800",
    "猫" * 70,
    [], [[]], [[], []], [None], [True], ["x"], [[1, 2], [3]], [[[[[1]]]]], [1e39], [1, "x"], {},
    {"kind": "seeded"}, {"kind": "tensors"}, {"kind": "given"}, {"kind": []}, {"x": 1},
    {"shape": [2, 2], "data": [1, 2, 3, 4]}, {"shape": [0, 2**62], "data": ""},
    {"shape": [2**31, 2**31], "dtype": "float64", "data": ""}, {"shape": [1], "data": "AACAPw=="},
    {"kind": "log_length", "base": 1.0000001}, float("nan"), float("inf"),
]
WORDS = [
    "scaled_dot_product", "additive", "multiplicative", "multi_head", "dot", "general", "concat",
    "seeded", "tensors", "logits", "weights", "given", "softmax_one", "sparsemax", "sigmoid", "rms",
    "upper_left", "lower_right", "none", "float16", "bfloat16", "float64", "bool", "int64", "flat",
    "nested", "base64", "refuse", "propagate", "auto", "cuda:1", "theory", "key_share", "gradients",
    "perturbation", "flip_margin", "1/d_k", "1", "AACAPw==",
]
# fmt: on


def in_document(draw: random.Random, body: bytes) -> bytes:
    """A JSON document with something changed in one place."""
    return changed_document(draw, json.loads(body)).encode("utf-8", "surrogatepass")


def changed_document(draw: random.Random, document: Any) -> str:
    """As text, which may name a field twice."""
    path = draw.choice(list(places(document)))
    inner = document
    for step in path:
        inner = inner[step]
    if draw.random() < 0.5:
        return _text(draw, replaced(document, path, _similar(draw, inner)))
    way = draw.random()
    if way < 0.6 or not isinstance(inner, dict | list) or not inner:
        return _text(draw, replaced(document, path, draw.choice(VALUES)))
    if isinstance(inner, list):
        inner = draw.choice([inner * 2, inner[1:], [inner], [*inner, draw.choice(VALUES)]])
        return _text(draw, replaced(document, path, inner))
    name = draw.choice(list(inner))
    if way < 0.75:
        left = {key: value for key, value in inner.items() if key != name}
        return _text(draw, replaced(document, path, left))
    if way < 0.9:
        added = {**inner, draw.choice(["x", "", "kind", "query", "\ud800"]): draw.choice(VALUES)}
        return _text(draw, replaced(document, path, added))
    text = json.dumps(name)
    return _text(draw, document).replace(f"{text}:", f"{text}: 0, {text}:", 1)


def _similar(draw: random.Random, value: Any) -> Any:
    """Another value of the same kind, which may well be accepted."""
    if isinstance(value, bool) or value is None:
        return draw.choice([True, False, None])
    if isinstance(value, int):
        return draw.choice([0, 1, 2, 3, 4, 5, 6, 8, 64, 1000, 2**20, 2**40])
    if isinstance(value, float):
        return draw.choice([0, 0.5, -1.5, 1e-3, 0.99, 7, 1e5, 3e38])
    if isinstance(value, str):
        return draw.choice(WORDS)
    if isinstance(value, list):
        return draw.choice([value[1:], value[:-1], value + value[:1], [value], value[0:1] * 7])
    return {
        name: _similar(draw, inner) if draw.random() < 0.2 else inner
        for name, inner in value.items()
    }


def _text(draw: random.Random, document: Any) -> str:
    return json.dumps(document, ensure_ascii=draw.random() < 0.5)
