import math
from itertools import product
from threading import get_ident

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from service.attention import rows
from service.attention.native.library import Native
from service.attention.reference import attention
from tests.builders import analyse, everything, normal, qkv, same_bytes, visible_pairs
from tests.passes import set_blocks

BATCH, HEADS, KV_HEADS, QUERIES, KEYS, D_K, D_V = 2, 6, 3, 5, 7, 11, 13
SHAPE = (BATCH, HEADS, QUERIES, KEYS)
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-13}
MATRICES = ("output", "weights", "logits", "scores")


def operands(dtype=torch.float64):
    """Query, key and value, each axis of another size."""
    query = normal(BATCH, HEADS, QUERIES, D_K, seed=1, dtype=dtype)
    key = normal(BATCH, KV_HEADS, KEYS, D_K, seed=2, dtype=dtype)
    return query, key, normal(BATCH, KV_HEADS, KEYS, D_V, seed=3, dtype=dtype)


def some_bias(dtype):
    """A bias per head with some keys forbidden."""
    bias = normal(1, HEADS, QUERIES, KEYS, seed=4, dtype=dtype)
    return bias.masked_fill(normal(1, HEADS, QUERIES, KEYS, seed=5) > 1, -math.inf)


CHOICES = {
    "causal": ("none", "upper_left", "lower_right"),
    "window": (None, {"left": 1}, {"left": 2, "right": 1}),
    "key_lengths": (None, torch.tensor([4, 7])),
    "allowed": (None, normal(BATCH, 1, QUERIES, KEYS, seed=6) > -0.7),
    "bias": (False, True),
}
COMBINATIONS = [dict(zip(CHOICES, picked, strict=True)) for picked in product(*CHOICES.values())]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("causal", CHOICES["causal"])
def test_the_pass_is_the_reference_under_every_combination_of_masks(causal, dtype):
    """Output, weights, logits and scores are the formula's, whatever masks combine."""
    query, key, value = operands(dtype)
    wide = [t.double() for t in (query, key, value)]
    for mask in (m for m in COMBINATIONS if m["causal"] == causal):
        bias = some_bias(dtype) if mask["bias"] else None
        mask = {**mask, "bias": bias}
        visible = visible_pairs(SHAPE, **mask)
        bias = None if bias is None else bias.double()
        expected = attention(*wide, scale=1 / math.sqrt(D_K), visible=visible, bias=bias)
        found = analyse(inputs=qkv(query, key, value), mask=mask, include=list(MATRICES))
        compare(found, expected, dtype)


def compare(found, expected, dtype):
    """All four matrices, each in the dtype of the inputs."""
    for name, want in zip(MATRICES, expected, strict=True):
        have = found.tensors[name]
        assert have.dtype == dtype
        tolerance = TOLERANCE[dtype]
        torch.testing.assert_close(have.double(), want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("softcap", [None, 0.7])
@pytest.mark.parametrize("scale", [None, 0.0, -0.6, 2.0])
def test_scale_and_softcap_come_before_bias_and_mask(scale, softcap, dtype):
    """Any finite scale and a softcap act on the scores first; −∞ from bias and mask stays −∞."""
    query, key, value = operands(dtype)
    bias = some_bias(dtype)
    visible = visible_pairs(SHAPE, causal="lower_right", bias=bias)
    resolved = 1 / math.sqrt(D_K) if scale is None else scale
    wide = [t.double() for t in (query, key, value)]
    options = {"softcap": softcap, "visible": visible, "bias": bias.double()}
    found = analyse(
        inputs=qkv(query, key, value),
        mechanism={"scale": scale, "softcap": softcap},
        mask={"causal": "lower_right", "bias": bias},
        include=list(MATRICES),
    )
    compare(found, attention(*wide, scale=resolved, **options), dtype)
    assert found.scale == resolved


def test_scores_are_shown_where_a_mask_hides_them():
    """Scores come before the masks: those of an item without a visible key are there too."""
    query, key, value = operands()
    found = analyse(
        inputs=qkv(query, key, value),
        mask={"key_lengths": torch.tensor([0, 4])},
        include=list(MATRICES),
    )
    scores = query @ key.repeat_interleave(2, 1).mT
    torch.testing.assert_close(found.tensors["scores"], scores, rtol=1e-13, atol=1e-13)
    assert (found.tensors["logits"][0] == -math.inf).all()
    assert not found.tensors["weights"][0].any()
    assert not found.tensors["output"][0].any()


def test_lower_ranks_are_one_head_and_one_item():
    """Rank 3 is (batch, length, dim) with one head, rank 2 one item with one head."""
    query, key, value = (t[:, 0] for t in operands())
    whole = analyse(inputs=qkv(query, key, value), include=["output"]).tensors["output"]
    assert whole.shape == (BATCH, 1, QUERIES, D_V)
    one = analyse(inputs=qkv(query[1], key[1], value[1]), include=["output"]).tensors["output"]
    assert same_bytes(one[0, 0], whole[1, 0])
    expected, *_ = attention(*(t[:, None] for t in (query, key, value)), scale=1 / math.sqrt(D_K))
    torch.testing.assert_close(whole, expected, rtol=1e-13, atol=1e-13)


BLOCK_MASKS = [
    {},
    {"causal": "upper_left", "offset": torch.tensor([-2, 3])},
    {"key_lengths": torch.tensor([4, 0]), "window": {"left": 3}},
    {"bias": some_bias(torch.float32), "allowed": normal(QUERIES, KEYS, seed=6) > -0.3},
]
STREAMED = ["output", "row_diagnostics", "key_share", "sparsity", "jacobian_spectral"]


def record_widths(monkeypatch):
    """The number of keys of each block from now on."""
    widths, fast, run = [], rows.fast, Native.run

    def run_native(native, job, units, most):
        widths.append(min(job.key_block, job.keys))
        return run(native, job, units, most)

    monkeypatch.setattr(rows, "fast", lambda s, *rest: widths.append(s.shape[-1]) or fast(s, *rest))
    monkeypatch.setattr(Native, "run", run_native)
    return widths


@pytest.mark.parametrize("mask", BLOCK_MASKS, ids=["none", "causal", "padded", "given"])
@pytest.mark.parametrize("mechanism", [{}, {"softcap": 3.0, "scale": 1.5}], ids=["", "softcap"])
def test_the_size_of_the_blocks_changes_nothing_beyond_rounding(mask, mechanism, monkeypatch):
    """Blocks of one key or query, of a few, or whole rows give the same figures and output."""
    request = {"inputs": qkv(*operands(torch.float32)), "mask": mask, "mechanism": mechanism}
    whole = everything(analyse(**request, include=STREAMED))
    assert len(whole) > 20
    widths = record_widths(monkeypatch)
    for key_block, block_logits in [(1, 2**18), (2, 20), (3, 2**18), (5, 30), (1024, 50)]:
        set_blocks(monkeypatch, keys=key_block)
        set_blocks(monkeypatch, logits=block_logits)
        widths.clear()
        cut = everything(analyse(**request, include=STREAMED))
        assert max(widths) == min(key_block, KEYS)
        for name, expected in whole.items():
            torch.testing.assert_close(
                cut[name], expected, rtol=1e-5, atol=2e-6, equal_nan=True, msg=name
            )
        assert torch.equal(cut["argmax"], whole["argmax"])
        assert torch.equal(cut["visible_keys"], whole["visible_keys"])


def test_a_late_maximum_rescales_the_output(monkeypatch):
    """Key ranges whose maximum grows by 200 at each step leave the output of the last range."""
    set_blocks(monkeypatch, keys=2)
    logits = torch.tensor([[0.0, 1.0, 200.0, 201.0, 400.0, 401.0, 402.0]])
    value = normal(7, 3, seed=1)
    inputs = {"kind": "logits", "logits": logits, "value": value}
    found = analyse(inputs=inputs, include=["output"]).tensors["output"][0, 0]
    expected = torch.softmax(logits.double(), -1) @ value.double()
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("mask", [{}, {"causal": "lower_right"}], ids=["", "causal"])
def test_several_threads_give_the_bytes_of_one(mask, monkeypatch):
    """The answer does not depend on which thread computes which unit."""
    set_blocks(monkeypatch, logits=100)
    inputs = {"kind": "seeded", "batch": 3, "heads": 4, "kv_heads": 2, "query_length": 11}
    request = {"inputs": {**inputs, "key_length": 29, "d_k": 7, "d_v": 5}, "mask": mask}
    include = [*STREAMED, "weights", "logits"]
    alone = everything(analyse(**request, include=include, threads=1))
    shared = everything(analyse(**request, include=include, threads=3))
    assert all(same_bytes(shared[name], tensor) for name, tensor in alone.items())


class LargestStorage(TorchDispatchMode):
    """Remembers the bytes of the largest tensor that any operation gave."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(given):
            if isinstance(tensor, torch.Tensor):
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return given


N, M = 127, 4099
LONG = {"kind": "seeded", "query_length": N, "key_length": M, "d_k": 3}


@pytest.mark.parametrize(
    ("mask", "std"),
    [({}, 1.0), ({"causal": "lower_right", "window": {"left": 2000}}, 1.0), ({}, 1e4)],
    ids=["fast", "masked", "exact"],
)
def test_memory_is_linear_unless_a_matrix_is_asked_for(mask, std, monkeypatch):
    """No tensor comes near the size of the weights, in either pass and either way of the rows."""
    set_blocks(monkeypatch, logits=2**15)
    with LargestStorage() as largest:
        analyse(inputs={**LONG, "std": std}, mask=mask, include=["diagnostics", *STREAMED])
    block_bytes = 2**15 * 8
    assert largest.bytes <= block_bytes < 4 * N * M / 7


def test_the_measure_of_memory_sees_a_matrix():
    """The same measure finds the weights where they are asked for."""
    with LargestStorage() as largest:
        analyse(inputs=LONG, include=["weights"])
    assert largest.bytes == 4 * N * M


class Stop(Exception):
    """What a checkpoint raises."""


UNITS = BATCH * KV_HEADS * QUERIES


@pytest.mark.parametrize(("include", "passes"), [(["output"], 1), (["output", "sparsity"], 2)])
def test_the_checkpoint_is_called_for_every_unit(include, passes, monkeypatch):
    """Both passes ask before each unit whether they are still wanted."""
    set_blocks(monkeypatch, logits=1)
    calls = []
    analyse(inputs=qkv(*operands()), include=include, checkpoint=lambda: calls.append(get_ident()))
    assert len(calls) == passes * UNITS


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("last", [1, UNITS, UNITS + 1, 2 * UNITS])
def test_what_the_checkpoint_raises_ends_the_analysis(threads, last, monkeypatch):
    """The exception of a checkpoint reaches the caller from any unit, pass and thread."""
    set_blocks(monkeypatch, logits=1)
    calls = []

    def checkpoint():
        calls.append(None)
        if len(calls) >= last:
            raise Stop

    with pytest.raises(Stop):
        analyse(
            inputs=qkv(*operands()),
            include=["output", "sparsity"],
            checkpoint=checkpoint,
            threads=threads,
        )
    assert len(calls) <= last + threads - 1


def test_misaligned_tensors_are_copied_once_an_item(monkeypatch):
    """However many units a pass has, each batch item is aligned once."""
    set_blocks(monkeypatch, logits=64)
    storage = normal(2 * 3 * 29 * 8 + 1)[1:]
    assert storage.data_ptr() % 64
    query = storage.view(2, 3, 29, 8)
    copies = []
    clone = torch.Tensor.clone
    monkeypatch.setattr(torch.Tensor, "clone", lambda t: copies.append(t.shape) or clone(t))
    found = analyse(inputs=qkv(query), include=["output", "diagnostics"])
    assert 1 <= len(copies) <= 3 * 2
    monkeypatch.undo()
    aligned = analyse(inputs=qkv(query.clone()), include=["output", "diagnostics"])
    torch.testing.assert_close(found.tensors["output"], aligned.tensors["output"])
