"""An item has the same bytes alone and in a batch, whatever mechanism scores it."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from service.mechanisms import MECHANISMS, additive_scores
from service.normalizers import NORMALIZERS
from tests.builders import analyse, everything, normal, qkv, same_bytes
from tests.mechanisms.variants import ALL, MASKS
from tests.passes import set_blocks

INCLUDE = ["output", "weights", "scores", "row_diagnostics", "key_share", "sparsity"]
STREAMED = ["output", "row_diagnostics", "key_share"]

each_variant = pytest.mark.parametrize("variant", ALL.values(), ids=ALL)


def assert_same_alone(operands, mask, item, include=INCLUDE, **request):
    """Everything about one item is bit for bit that of the item in its batch."""
    together = everything(analyse(inputs=qkv(*operands), mask=mask, include=include, **request))
    # A view into the batch and a copy of it start at different addresses in memory.
    for own in (lambda t: t[item : item + 1], lambda t: t[item : item + 1].clone()):
        cut = {n: own(m) if per_item(m) else m for n, m in mask.items()}
        inputs = qkv(*(own(t) for t in operands))
        alone = everything(analyse(inputs=inputs, mask=cut, include=include, **request))
        assert alone.keys() == together.keys()
        for name, tensor in alone.items():
            assert same_bytes(tensor[0], together[name][item]), name


def per_item(entry):
    """Whether a part of a mask request has one entry per batch item."""
    return isinstance(entry, torch.Tensor) and entry.dim() in (1, 4) and entry.shape[0] > 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@each_variant
def test_given_weights_give_an_item_the_same_bytes_alone(variant, dtype):
    """Projections, scores, output and every figure, under every normaliser in turn."""
    operands = variant.operands(dtype)
    masks = (*MASKS.values(), *MASKS.values())
    for item, (normalizer, mask) in enumerate(zip(NORMALIZERS, masks, strict=False)):
        mechanism = {**variant.mechanism, "normalizer": normalizer}
        assert_same_alone(operands, mask, item % 2, mechanism=mechanism)


FORMS = {
    "scaled_dot_product": ({},),
    "additive": ({"parameters": {"kind": "seeded", "seed": 3, "hidden_dim": 19}}, {}),
    "multiplicative": (
        {},
        {"score": "general", "parameters": {"kind": "seeded", "seed": 5}},
        {"score": "concat", "parameters": {"kind": "seeded", "hidden_dim": 23}},
    ),
    "multi_head": ({"heads": 4, "kv_heads": 2, "parameters": {"kind": "seeded", "seed": 7}},),
}
SEEDED = [{"kind": kind, **form} for kind in MECHANISMS for form in FORMS[kind]]


@settings(max_examples=30, deadline=None)
@given(
    mechanism=st.sampled_from(SEEDED),
    normalizer=st.sampled_from(list(NORMALIZERS)),
    sizes=st.tuples(*(st.integers(1, most) for most in (4, 2, 3, 19, 37, 29, 13))),
    std=st.sampled_from([1.0, 20.0]),
    include=st.sampled_from([INCLUDE, STREAMED]),
    seed=st.integers(0, 999),
)
def test_seeded_weights_give_an_item_the_same_bytes_alone(
    mechanism, normalizer, sizes, std, include, seed
):
    """At odd sizes, spread or not, with matrices held or streamed."""
    batch, kv_heads, group, queries, keys, d_k, d_v = sizes
    shapes = (
        (batch, kv_heads * group, queries, d_k),
        (batch, kv_heads, keys, d_k),
        (batch, kv_heads, keys, d_v),
    )
    if MECHANISMS[mechanism["kind"]].undivided:
        dims = (queries, 4 * d_k), (keys, d_k), (keys, d_v)
        shapes = tuple((batch, *own) for own in dims)
    operands = [normal(*shape, seed=seed + i) * std for i, shape in enumerate(shapes)]
    mask = {"key_lengths": torch.arange(batch) + keys - batch + 1} if seed % 2 else {}
    mask = {n: lengths.clamp(min=0) for n, lengths in mask.items()}
    request = {"mechanism": {**mechanism, "normalizer": normalizer}}
    assert_same_alone(operands, mask, seed % batch, include, **request)


@pytest.mark.parametrize("mechanism", SEEDED, ids=lambda m: "-".join(map(str, m.values()))[:32])
def test_items_of_several_units_key_blocks_and_tiles(mechanism, monkeypatch):
    """The same holds where an item is cut into units, its rows into ranges, these into tiles."""
    set_blocks(monkeypatch, logits=1500)
    set_blocks(monkeypatch, keys=41)
    monkeypatch.setattr(additive_scores, "_TILE", 997)
    shapes = ((3, 4, 17, 12), (3, 2, 83, 12), (3, 2, 83, 31))
    if MECHANISMS[mechanism["kind"]].undivided:
        shapes = ((3, 17, 12), (3, 83, 29), (3, 83, 31))
    operands = [normal(*shape, seed=i) for i, shape in enumerate(shapes)]
    assert_same_alone(operands, {}, 1, STREAMED, mechanism=mechanism)
    assert_same_alone(operands, {"causal": "lower_right"}, 2, mechanism=mechanism)


@each_variant
def test_several_threads_give_the_bytes_of_one(variant, monkeypatch):
    """The answer does not depend on which thread computes which unit."""
    set_blocks(monkeypatch, logits=30)
    request = {**variant.request(variant.operands(torch.float32)), "mask": MASKS["causal"]}
    alone = everything(analyse(**request, include=INCLUDE, threads=1))
    shared = everything(analyse(**request, include=INCLUDE, threads=3))
    assert all(same_bytes(shared[name], tensor) for name, tensor in alone.items())


def test_a_companion_with_nan_changes_nothing():
    """An item beside one with NaN keeps its bytes through every mechanism's projections."""
    for variant in ALL.values():
        operands = variant.operands(torch.float32)
        operands[0][0, ..., 1, 2] = math.nan
        operands[2][0, ..., 3, 1] = math.inf
        compute = {"nonfinite": "propagate"}
        assert_same_alone(operands, {}, 1, mechanism=variant.mechanism, compute=compute)


def misaligned(tensor):
    """The same numbers at an address that no vector instruction starts at."""
    storage = torch.empty(tensor.numel() + 1, dtype=tensor.dtype)
    view = storage[1:].view(tensor.shape)
    assert view.data_ptr() % 64
    return view.copy_(tensor)


@pytest.mark.parametrize(
    ("score", "hidden"), [("general", 5), ("concat", 255), ("concat", 1), ("additive", 255)]
)
def test_where_given_weights_lie_in_memory_changes_no_byte(score, hidden):
    """The same weights, read from another place of a body, give the same bytes."""
    query, key, value = normal(2, 2, 19, 7), normal(2, 2, 23, 9, seed=1), normal(2, 2, 23, 5)
    weights = {
        "general": {"weight": normal(7, 9, seed=2)},
        "concat": {"weight": normal(hidden, 16, seed=2), "score_vector": normal(hidden, seed=3)},
        "additive": {
            "query_weight": normal(hidden, 7, seed=2),
            "key_weight": normal(hidden, 9, seed=4),
            "score_vector": normal(hidden, seed=3),
        },
    }[score]
    mechanism = {"kind": "additive"} if score == "additive" else {"kind": "multiplicative"}
    if score != "additive":
        mechanism["score"] = score
    aligned, moved = (
        everything(
            analyse(
                inputs=qkv(query, key, value),
                mechanism={**mechanism, "parameters": {"kind": "given", **own}},
                include=INCLUDE,
            )
        )
        for own in (weights, {name: misaligned(t) for name, t in weights.items()})
    )
    assert all(same_bytes(moved[name], tensor) for name, tensor in aligned.items())


def test_the_figures_of_softmax_one_do_not_depend_on_their_place_among_the_rows():
    """The last digit of lse and null_mass is the same wherever a row stands in the batch."""
    for seed in range(30):
        tensors = normal(2, 6, 5, 11, seed=seed), normal(2, 3, 7, 11, seed=seed + 1)
        mechanism = {"normalizer": "softmax_one"}
        assert_same_alone(tensors, {}, 1, ["row_diagnostics"], mechanism=mechanism)
