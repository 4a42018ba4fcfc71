import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.builders import analyse, everything, given_logits, normal, qkv, same_bytes
from tests.passes import each_pass, set_blocks  # noqa: F401 - a fixture of every test here

INCLUDE = ["output", "weights", "row_diagnostics", "key_share", "sparsity", "jacobian_spectral"]
STREAMED = [name for name in INCLUDE if name != "weights"]


def assert_same_alone(inputs, mask, include, item, **request):
    """Everything about one item has the same bytes alone as in its batch."""
    together = everything(analyse(inputs=inputs, mask=mask, include=include, **request))
    kind = {"kind": inputs["kind"]}
    # A view into the batch and a copy of it start at different addresses in memory.
    for own in (lambda t: t[item : item + 1], lambda t: t[item : item + 1].clone()):
        tensors = {n: own(t) for n, t in inputs.items() if isinstance(t, torch.Tensor)}
        cut = {n: own(m) if per_item(m) else m for n, m in mask.items()}
        alone = everything(analyse(inputs=kind | tensors, mask=cut, include=include, **request))
        assert alone.keys() == together.keys()
        for name, tensor in alone.items():
            assert same_bytes(tensor[0], together[name][item]), name


def per_item(entry):
    """Whether a part of a mask request has one entry per batch item."""
    return isinstance(entry, torch.Tensor) and entry.dim() in (1, 4) and entry.shape[0] > 1


def masks(batch, heads, queries, keys, seed):
    """Mask requests, with entries per batch item where they can have them."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, keys + 1, (batch,), generator=generator)
    offsets = torch.randint(-2, keys, (batch,), generator=generator)
    allowed = torch.rand(batch, heads, queries, keys, generator=generator) < 0.7
    bias = torch.randn(batch, 1, queries, keys, generator=generator)
    return {
        "none": {},
        "causal": {"causal": "upper_left", "offset": offsets},
        "padded": {"causal": "lower_right", "key_lengths": lengths},
        "allowed": {"allowed": allowed, "window": {"left": 2}},
        "bias": {"bias": bias.masked_fill(bias > 1, float("-inf"))},
    }


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.tuples(*(st.integers(1, most) for most in (4, 3, 3, 19, 23, 17, 13))),
    mask=st.sampled_from(["none", "causal", "padded", "allowed", "bias"]),
    dtype=st.sampled_from([torch.float32, torch.float32, torch.float64, torch.float16]),
    include=st.sampled_from([INCLUDE, STREAMED]),
    std=st.sampled_from([1.0, 1.0, 30.0]),
    seed=st.integers(0, 999),
)
def test_an_item_has_the_same_bytes_alone_and_in_a_batch(sizes, mask, dtype, include, std, seed):
    """Output, weights and every figure are bit for bit the same, at odd sizes and under masks."""
    batch, kv_heads, group, queries, keys, d_k, d_v = sizes
    heads = kv_heads * group
    query = (normal(batch, heads, queries, d_k, seed=seed) * std).to(dtype)
    key = normal(batch, kv_heads, keys, d_k, seed=seed + 1, dtype=dtype)
    value = normal(batch, kv_heads, keys, d_v, seed=seed + 2, dtype=dtype)
    picked = masks(batch, heads, queries, keys, seed)[mask]
    assert_same_alone(qkv(query, key, value), picked, include, seed % batch)


@pytest.mark.parametrize("heads", [(1, 1), (6, 3)], ids=["one head", "many heads"])
@pytest.mark.parametrize("mask", ["none", "causal", "padded"])
def test_items_of_several_units_and_key_blocks(heads, mask, monkeypatch):
    """The same holds where an item is cut into units and its rows into ranges of keys."""
    set_blocks(monkeypatch, logits=3000)
    set_blocks(monkeypatch, keys=101)
    heads, kv_heads = heads
    operands = normal(3, heads, 37, 29), normal(3, kv_heads, 211, 29), normal(3, kv_heads, 211, 31)
    picked = masks(3, heads, 37, 211, seed=1)[mask]
    assert_same_alone(qkv(*operands), picked, STREAMED, 1)


def test_large_items():
    """The same holds for products large enough to be cut up by the library."""
    operands = normal(2, 2, 257, 67), normal(2, 2, 1031, 67), normal(2, 2, 1031, 61)
    assert_same_alone(qkv(*operands), {}, ["output", "row_diagnostics"], 1)


def test_given_logits():
    """The same holds for logits that come from elsewhere."""
    inputs = given_logits(normal(3, 2, 5, 7), normal(3, 1, 7, 11))
    assert_same_alone(inputs, {}, INCLUDE, 2)


def test_a_companion_with_nan_changes_nothing():
    """An item beside one that holds NaN and infinity keeps its bytes."""
    query, key, value = (
        normal(3, 2, 5, 7),
        normal(3, 2, 11, 7, seed=1),
        normal(3, 2, 11, 13, seed=2),
    )
    query[0, 1, 2] = float("nan")
    value[2, 0, 3] = float("inf")
    compute = {"nonfinite": "propagate"}
    assert_same_alone(qkv(query, key, value), {}, INCLUDE, 1, compute=compute)
