import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.masks import Mask as MaskRequest
from service.attention.blocks import Unit, ranges
from service.errors import Invalid, InvalidMask, NonFinite
from service.masks import MASKS, CombinedMask
from service.masks.combined import count_visible
from service.masks.resolve import resolve
from service.shape import Shape
from tests.builders import (
    CPU,
    analyse,
    entry,
    given_weights,
    normal,
    plain_figures,
    qkv,
    visible_pairs,
)
from tests.passes import set_blocks

LOWEST = torch.finfo(torch.float32).min


def resolved(extents, *, query_rank=4, **mask):
    """The shape and the resolved masks of a request for (batch, heads, N, M)."""
    batch, heads, queries, keys = extents
    shape = Shape(batch, heads, heads, queries, keys, 1, 1, 1, query_rank)
    request = MaskRequest.model_validate(mask)
    return shape, resolve(request, shape, MASKS, dtype=torch.float32, device=CPU)


def assembled(combined, extents, steps):
    """What is visible and what is added, put together from blocks (heads, queries, keys)."""
    batch, heads, queries, keys = extents
    seen, added = torch.zeros(extents, dtype=torch.bool), torch.zeros(extents)
    head_step, query_step, key_step = steps
    for b in range(batch):
        for h in ranges(heads, head_step):
            for i in ranges(queries, query_step):
                for j in ranges(keys, key_step):
                    unit = Unit(b, h, h, i)
                    seen[b, h, i, j] = combined.visible(unit, j)
                    bias = combined.bias(unit, j)
                    added[b, h, i, j] = 0.0 if bias is None else bias
    return seen, added


def check(extents, steps, mask, query_rank=4):
    """The members together, block by block, against every pair by itself."""
    shape, found = resolved(extents, query_rank=query_rank, **mask)
    combined = CombinedMask(found.members)
    seen, added = assembled(combined, extents, steps)
    expected = visible_pairs(extents, query_rank=query_rank, **mask)
    assert torch.equal(seen, expected)
    assert torch.equal(count_visible(combined, shape), expected.sum(-1).double())
    if "bias" in mask:
        for pair in expected.nonzero().tolist():
            want = entry(mask["bias"], tuple(pair), query_rank, extents[-1])
            assert added[tuple(pair)] == want


def integers(low, high, count):
    """A tensor of that many integers."""
    return st.lists(st.integers(low, high), min_size=count, max_size=count).map(torch.tensor)


@st.composite
def mask_shapes(draw, extents, query_rank):
    """A shape of rank 2, 3 or 4 that fits (batch, heads, N, M), broadcast or cut short."""
    batch, heads, queries, keys = extents
    third = heads if query_rank == 4 else batch
    lead = draw(st.sampled_from([(queries,), (third, queries), (batch, heads, queries)]))
    last = draw(st.one_of(st.just(keys), st.integers(1, keys)))
    return (*(draw(st.sampled_from([1, extent])) for extent in lead), last)


@st.composite
def offsets(draw, batch):
    """One offset for all or one per batch item, negative ones too."""
    if draw(st.booleans()):
        return torch.tensor(draw(st.integers(-9, 9)))
    return draw(integers(-9, 9, batch))


@st.composite
def windows(draw):
    """A window that bounds one side or both."""
    sides = draw(st.sampled_from([("left",), ("right",), ("left", "right")]))
    return {side: draw(st.integers(0, 4)) for side in sides}


@st.composite
def cases(draw, *members):
    """Extents, block sizes, rank of the query and a request with these masks, or any of them."""
    query_rank = draw(st.sampled_from([4, 4, 3, 2]))
    batch = 1 if query_rank == 2 else draw(st.integers(1, 3))
    heads = draw(st.integers(1, 2)) if query_rank == 4 else 1
    extents = (batch, heads, draw(st.integers(1, 5)), draw(st.integers(1, 7)))
    steps = (draw(st.integers(1, 2)), draw(st.integers(1, 5)), draw(st.integers(1, 7)))
    picked = members or draw(st.sets(st.sampled_from(list(MEMBERS))))
    mask = {}
    for name in picked:
        mask.update(draw(MEMBERS[name](extents, query_rank)))
    if draw(st.booleans()) and mask.get("causal") != "lower_right" and mask.keys() & PLACED:
        mask["offset"] = draw(offsets(batch))
    return extents, steps, mask, query_rank


@st.composite
def causal_masks(draw, extents, query_rank):
    """A causal mask of either alignment."""
    return {"causal": draw(st.sampled_from(["upper_left", "lower_right"]))}


@st.composite
def window_masks(draw, extents, query_rank):
    """A window."""
    return {"window": draw(windows())}


@st.composite
def length_masks(draw, extents, query_rank):
    """Key lengths from 0 to M."""
    return {"key_lengths": draw(integers(0, extents[3], extents[0]))}


@st.composite
def allowed_masks(draw, extents, query_rank):
    """A boolean tensor."""
    shape = draw(mask_shapes(extents, query_rank))
    return {"allowed": normal(*shape, seed=draw(st.integers(0, 99))) > -0.4}


@st.composite
def bias_masks(draw, extents, query_rank):
    """A float tensor with −∞ here and there, or none, or a threshold below which it forbids."""
    shape = draw(mask_shapes(extents, query_rank))
    bias = normal(*shape, seed=draw(st.integers(0, 99)))
    bias = bias.masked_fill(bias > draw(st.sampled_from([9.0, 0.5])), -math.inf)
    threshold = draw(st.sampled_from([{}, {"forbid_below": -0.5}]))
    return {"bias": bias, **threshold}


MEMBERS = {
    "causal": causal_masks,
    "window": window_masks,
    "key_lengths": length_masks,
    "allowed": allowed_masks,
    "bias": bias_masks,
}
PLACED = {"causal", "window"}


def test_an_entry_at_the_threshold_still_counts():
    """Entries below forbid_below are forbidden, one that equals it is not."""
    bias = torch.tensor([[-2.0, -1.5, math.nextafter(-1.5, -9.0), 3.0]], dtype=torch.float64)
    shape = Shape(1, 1, 1, 1, 4, 1, 1, 1, 4)
    request = MaskRequest.model_validate({"bias": bias, "forbid_below": -1.5})
    found = resolve(request, shape, MASKS, dtype=torch.float64, device=CPU)
    seen, added = assembled(CombinedMask(found.members), (1, 1, 1, 4), (1, 1, 4))
    assert seen.flatten().tolist() == [False, True, False, True]
    assert added.flatten().tolist() == [0.0, -1.5, 0.0, 3.0]


def test_the_generators_know_every_member_of_the_room():
    """Each mask on offer has a generator here, so that a new one cannot go untested."""
    assert set(MEMBERS) == {member.description.name for member in MASKS}


@pytest.mark.parametrize("name", MEMBERS)
def test_each_mask_hides_exactly_what_its_definition_says(name):
    """Alone, in blocks of any size, a mask agrees pair by pair with its one-line definition."""

    @settings(max_examples=60, deadline=None)
    @given(case=cases(name))
    def agrees(case):
        extents, steps, mask, query_rank = case
        check(extents, steps, mask, query_rank)

    agrees()


@settings(max_examples=150, deadline=None)
@given(case=cases())
def test_masks_combine_by_and(case):
    """Any combination shows the keys that every one of its masks allows."""
    extents, steps, mask, query_rank = case
    check(extents, steps, mask, query_rank)


def test_a_case_by_hand():
    """Three queries behind two past keys: each sees the past and itself, at most two back."""
    mask = {"causal": "upper_left", "offset": torch.tensor(2), "window": {"left": 2}}
    expected = [[1, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 1, 1]]
    _, found = resolved((1, 1, 3, 5), **mask)
    seen, _ = assembled(CombinedMask(found.members), (1, 1, 3, 5), (1, 3, 5))
    assert seen[0, 0].int().tolist() == expected
    assert visible_pairs((1, 1, 3, 5), **mask)[0, 0].int().tolist() == expected


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        ({}, (0, 0)),
        ({"causal": "upper_left"}, (0, 0)),
        ({"causal": "lower_right"}, (2, 2)),
        ({"causal": "lower_right", "key_lengths": torch.tensor([3, 7])}, (-2, 2)),
        ({"causal": "lower_right", "key_lengths": torch.tensor([0, 5])}, (-5, 0)),
        ({"causal": "upper_left", "key_lengths": torch.tensor([3, 7])}, (0, 0)),
        ({"causal": "upper_left", "offset": torch.tensor(-3)}, (-3, -3)),
        ({"causal": "upper_left", "offset": torch.tensor([4, -1])}, (4, -1)),
        ({"window": {"left": 1}, "offset": torch.tensor([1, 2])}, (1, 2)),
    ],
)
def test_the_resolved_offset(mask, expected):
    """The offset given, else what lower_right takes from the lengths or from M − N, else 0."""
    _, found = resolved((2, 1, 5, 7), **mask)
    assert found.offsets == expected
    assert found.causal == mask.get("causal", "none")


def test_a_key_value_cache_is_a_concatenation_with_an_offset():
    """Decoding one query behind a cache gives the last row of the whole, at offset = past."""
    query, key, value = normal(7, 3, seed=1), normal(7, 3, seed=2), normal(7, 5, seed=3)
    whole = analyse(inputs=qkv(query, key, value), mask={"causal": "upper_left"})
    last = analyse(
        inputs=qkv(query[4:], key, value), mask={"causal": "upper_left", "offset": torch.tensor(4)}
    )
    expected = whole.tensors["weights"][:, :, 4:]
    torch.testing.assert_close(last.tensors["weights"], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("key_block", [2, 1024])
def test_finite_entries_that_should_forbid_are_counted_and_mended(key_block, monkeypatch):
    """finfo.min is computed as given and counted with advice; forbid_below makes it forbid."""
    set_blocks(monkeypatch, keys=key_block)
    query, key, value = normal(5, 3, seed=1), normal(7, 3, seed=2), normal(7, 11, seed=3)
    bias = torch.zeros(5, 7)
    bias[:, 4:], bias[3] = LOWEST, LOWEST
    bias[0, 4] = -math.inf
    bias[1, 0] = -9999.0
    request = {"inputs": qkv(query, key, value), "include": ["output", "diagnostics", "weights"]}
    given = analyse(**request, mask={"bias": bias})
    assert given.numerics.near_forbidden == 4 * 3 + 7 - 1
    assert any(f"{4 * 3 + 7 - 1} bias entries" in said for said in given.numerics.advice)
    assert [said.partition(" are ")[0] for said in given.verdict.advice] == ["18 bias entries"]
    assert given.rows["visible_keys"][0, 0].tolist() == [6, 7, 7, 7, 7]
    # Added to finfo.min the scores vanish, so the row that should be masked takes the mean.
    torch.testing.assert_close(given.tensors["output"][0, 0, 3], value.mean(0))
    assert given.numerics.fully_masked_rows == 0

    mended = analyse(**request, mask={"bias": bias, "forbid_below": -1e5})
    assert mended.numerics.near_forbidden == 0
    assert mended.numerics.fully_masked_rows == 1
    assert not any("bias entries" in said for said in mended.numerics.advice)
    assert not any("bias entries" in said for said in mended.verdict.advice)
    assert mended.rows["visible_keys"][0, 0].tolist() == [4, 4, 4, 0, 4]
    assert not mended.tensors["output"][0, 0, 3].any()
    rows = [0, 1, 2, 4]
    torch.testing.assert_close(
        mended.tensors["weights"][0, 0, rows], given.tensors["weights"][0, 0, rows]
    )


@pytest.mark.parametrize("lowest", [-1e4, -1e9, LOWEST])
def test_large_negative_entries_do_not_blur_the_rest(lowest):
    """Next to entries of −1e4 … finfo.min the other weights keep their digits, as computed."""
    query, key = normal(5, 3, seed=1), normal(7, 3, seed=2)
    bias = torch.zeros(5, 7)
    bias[:, 3:6] = lowest
    found = analyse(
        inputs=qkv(query, key), mask={"bias": bias}, include=["weights", "row_diagnostics"]
    )
    logits = query.double() @ key.double().T / math.sqrt(3) + bias.double()
    expected = torch.softmax(logits, -1)
    weights = found.tensors["weights"][0, 0].double()
    torch.testing.assert_close(weights, expected, rtol=5e-6, atol=0)
    entropy = plain_figures(logits)["entropy"]
    torch.testing.assert_close(found.rows["entropy"][0, 0], entropy, rtol=5e-6, atol=0)


TWO = {"allowed": torch.ones(2, 7, dtype=torch.bool)}


@pytest.mark.parametrize(
    ("mask", "pointer", "said"),
    [
        ({"causal": "lower_right", "offset": torch.tensor(1)}, "offset", "lower_right"),
        ({"offset": torch.tensor(1)}, "offset", "without causal or window"),
        ({"causal": "upper_left", "offset": torch.tensor([1, 2, 3])}, "offset", r"\(2\).*\[3\]"),
        ({"causal": "upper_left", "offset": torch.tensor([[1, 2]])}, "offset", r"\[1, 2\]"),
        ({"causal": "upper_left", "offset": torch.tensor(2**50)}, "offset", "within"),
        ({"key_lengths": torch.tensor([3, 8])}, "key_lengths", "0 … 7; found one outside"),
        ({"key_lengths": torch.tensor([-1, 3])}, "key_lengths", "0 … 7; found one outside"),
        ({"key_lengths": torch.tensor([3])}, "key_lengths", r"\(2\).*\[1\]"),
        ({"key_lengths": torch.tensor(3)}, "key_lengths", r"\(2\).*\[\]"),
        (TWO, "allowed", r"query 5 or 1.*\[2, 7\]"),
        ({"allowed": torch.ones(5, 8, dtype=torch.bool)}, "allowed", r"key 1 … 7.*\[5, 8\]"),
        ({"allowed": torch.ones(2, 5, 7, dtype=torch.bool)}, "allowed", "head 3 or 1"),
        ({"allowed": torch.ones(7, dtype=torch.bool)}, "allowed", "rank 1"),
        ({"bias": torch.zeros(3, 3, 5, 7)}, "bias", "batch 2 or 1"),
        ({"bias": torch.zeros(1, 1, 1, 5, 7)}, "bias", "rank 5"),
    ],
)
def test_masks_that_contradict_or_do_not_fit_are_refused(mask, pointer, said):
    """The refusal says what was expected and found, and points at the field."""
    with pytest.raises(InvalidMask, match=said) as error:
        resolved((2, 3, 5, 7), **mask)
    assert error.value.pointer == f"/mask/{pointer}"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bias_of_nan_or_plus_infinity_is_refused(bad):
    """Only −∞ means something in a bias; NaN and +∞ are refused with count and place."""
    bias = torch.zeros(3, 5, 7)
    bias[1, 2, 3] = bias[2] = bad
    with pytest.raises(NonFinite, match=r"36 .* \[1, 2, 3\]"):
        resolved((2, 3, 5, 7), bias=bias)


@pytest.mark.parametrize(
    ("request_", "pointer"),
    [
        ({"mask": {"forbid_below": -1.0}}, "/mask/forbid_below"),
        (
            {"inputs": given_weights(torch.ones(5, 7) / 7), "mask": {"bias": torch.zeros(5, 7)}},
            "/mask/bias",
        ),
    ],
    ids=["forbid_below without a bias", "a bias on given weights"],
)
def test_options_that_mean_nothing_are_refused(request_, pointer):
    """A threshold without a bias, and a bias after the softmax, are named as such."""
    with pytest.raises(Invalid) as error:
        analyse(**request_)
    assert error.value.pointer == pointer


def test_a_float64_bias_keeps_its_meaning_beside_float32_inputs():
    """finfo.min of float64 is a finite entry: counted, not forbidden, a masked row is mean(V)."""
    query = normal(3, 5)
    bias = torch.full((3, 3), torch.finfo(torch.float64).min, dtype=torch.float64)
    found = analyse(inputs=qkv(query), mask={"bias": bias}, include=["output", "diagnostics"])
    assert found.numerics.near_forbidden == 9
    assert found.numerics.fully_masked_rows == 0
    mean = query.mean(0).expand(3, 5)
    torch.testing.assert_close(found.tensors["output"][0, 0], mean, rtol=1e-5, atol=1e-6)


def test_an_offset_with_an_unbounded_window_has_nothing_to_place():
    """A window without edges bounds nothing, so an offset beside it is refused."""
    with pytest.raises(InvalidMask, match="nothing to place"):
        analyse(inputs=qkv(normal(3, 5)), mask={"window": {}, "offset": torch.tensor(1)})
