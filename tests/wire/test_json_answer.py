import base64
import json
import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.wire import json_answer
from service.wire.answers import Answer, Part
from service.wire.json_answer import encode
from tests.builders import normal, same_bytes
from tests.files import raw


def written(tensors, tensor_format="nested", rows=None, document=None):
    part = Part(None, document or {}, tensors, rows or {})
    return json.loads(bytes(encode(Answer([part]), tensor_format)))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
    st.sampled_from([1, 2, 3, 7, 1000]),
    st.sampled_from(["float16", "bfloat16", "float32", "float64"]),
)
def test_pieces_join_to_the_whole(monkeypatch, shape, piece, dtype):
    """However an array is cut for writing, the text is that of the array."""
    monkeypatch.setattr(json_answer, "_PIECE", piece)
    tensor = normal(*shape).to(getattr(torch, dtype))
    tensors = {"output": tensor}
    assert same_bytes(torch.tensor(written(tensors)["output"], dtype=tensor.dtype), tensor)
    flat = written(tensors, "flat")["output"]
    assert (flat["shape"], flat["dtype"]) == (shape, dtype)
    assert same_bytes(torch.tensor(flat["data"], dtype=tensor.dtype), tensor.reshape(-1))
    packed = written(tensors, "base64")["output"]
    assert (packed["shape"], packed["dtype"]) == (shape, dtype)
    assert base64.b64decode(packed["data"]) == raw(tensor)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_what_json_cannot_hold_is_null(dtype):
    """NaN and both infinities are null in lists, and exact in base64."""
    tensor = torch.tensor([math.nan, math.inf, -math.inf, -0.0], dtype=dtype)
    assert written({"output": tensor})["output"] == [None, None, None, 0]
    assert written({"output": tensor}, "flat")["output"]["data"] == [None, None, None, 0]
    packed = written({"output": tensor}, "base64")["output"]["data"]
    assert base64.b64decode(packed) == raw(tensor)


def test_views_are_written_as_they_look():
    """A transposed or sliced tensor is written in its own order, in every format."""
    tensor = normal(5, 7).T[1:5:2]
    assert torch.equal(torch.tensor(written({"output": tensor})["output"]), tensor)
    data = written({"output": tensor}, "flat")["output"]["data"]
    assert torch.equal(torch.tensor(data).view(tensor.shape), tensor)
    packed = written({"output": tensor}, "base64")["output"]["data"]
    assert base64.b64decode(packed) == raw(tensor)


def test_parts_stand_in_the_order_of_the_contract():
    """Tensors follow shape and mask, rows follow the diagnostics, what is common comes last."""
    document = {
        "mechanism": {}, "shape": {}, "mask": {}, "diagnostics": {"a": torch.ones(1, 1)},
        "verdict": {}, "numerics": {}, "theory": {}, "omitted": [],
    }  # fmt: skip
    part = Part(None, document, {"output": torch.ones(1)}, {"entropy": torch.ones(1, 1, 1)})
    answer = json.loads(bytes(encode(Answer([part], {"device": "cpu"}), "nested")))
    assert list(answer) == [
        "mechanism", "shape", "mask", "output", "diagnostics", "row_diagnostics", "verdict",
        "numerics", "theory", "omitted", "device",
    ]  # fmt: skip
    assert answer["diagnostics"] == {"a": [[1]]}


def test_groups_are_written_in_order():
    """Each group carries its name first; what is common stands beside the groups."""
    parts = [Part(f"layer{i}", {"omitted": []}, {"output": torch.ones(1)}, {}) for i in (2, 10)]
    answer = json.loads(bytes(encode(Answer(parts, {"ranking": []}), "nested")))
    assert [next(iter(group.items())) for group in answer["groups"]] == [
        ("name", "layer2"),
        ("name", "layer10"),
    ]
    assert answer["ranking"] == []


def test_what_has_no_json_form_is_a_fault():
    """A document with anything but text, numbers and small tensors is a mistake of the code."""
    with pytest.raises(TypeError):
        written({}, document={"a": object()})
