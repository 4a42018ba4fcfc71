import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.builders import analyse, normal, qkv
from tests.passes import set_blocks
from tests.plain import HEADS, KEYS, KV_HEADS, QUERIES, WIDE, case_of, plain

INCLUDE = ["flip_margin", "row_diagnostics"]


def common(**mask):
    """A mask with some rows of one key and some of none."""
    allowed = normal(2, 1, QUERIES, KEYS, seed=40) > -0.5
    allowed[0, 0, 1] = False
    allowed[1, 0, 3] = torch.arange(KEYS) == 2
    return {"allowed": allowed, **mask}


def brute_force(found, keys, scale):
    """The least step to where another visible key scores the same, row by row, and that key."""
    margins = torch.full(found.logits.shape[:-1], math.nan, dtype=WIDE)
    nearest = torch.full_like(margins, -1, dtype=torch.int64)
    for row in margins.flatten().isnan().nonzero().flatten().tolist():
        b, h, i = (int(x) for x in torch.unravel_index(torch.tensor(row), margins.shape))
        logits = found.logits[b, h, i]
        a = int(logits.argmax())
        for j in (logits > -math.inf).nonzero().flatten().tolist():
            normal_to = keys[b, h, a] - keys[b, h, j]
            if not normal_to.any():
                continue
            length = float((logits[a] - logits[j]) / (abs(scale) * normal_to.norm()))
            if not length >= margins[b, h, i]:
                margins[b, h, i], nearest[b, h, i] = length, j
    return margins, nearest


@pytest.mark.parametrize("block_logits", [20, 2**18], ids=["some rows", "whole"])
@pytest.mark.parametrize("scale", [None, -1.7])
@pytest.mark.parametrize("kind", ["scaled_dot_product", "dot", "general", "multi_head"])
def test_the_margin_is_the_distance_to_the_nearest_border(kind, scale, block_logits, monkeypatch):
    """As found key by key, for every product, negative scales, masks and a bias of the row."""
    set_blocks(monkeypatch, logits=block_logits)
    case = case_of(kind, scale=scale)
    bias = normal(1, HEADS, QUERIES, 1, seed=41, dtype=WIDE)
    mask = common(bias=bias)
    margin = analyse(**case.request, mask=mask, include=INCLUDE).rows["flip_margin"]
    found = plain(case, case.tensors, mask["allowed"], bias)
    keys = found.key.repeat_interleave(HEADS // KV_HEADS, 1)
    if kind == "general":
        keys = keys @ case.weights["weight"].t()
    expected, _ = brute_force(found, keys, case.scale)
    assert expected[0, :, 1].isnan().all()
    assert expected[1, :, 3].isnan().all()
    torch.testing.assert_close(margin, expected, rtol=1e-11, atol=1e-13, equal_nan=True)


steps = st.integers(0, 2**31)


def argmax_at(query, key, scale, visible):
    """The preferred key of each row."""
    return torch.where(visible, scale * query @ key.t(), -math.inf).argmax(-1)


@settings(max_examples=40, deadline=None)
@given(steps, st.sampled_from([-3.0, 0.02, 0.5, 40.0]), st.integers(1, 6), st.booleans())
def test_the_argmax_changes_outside_the_margin_and_not_inside(seed, scale, dim, masked):
    """Inside in any direction never; just outside towards the nearest border always."""
    query, key = (normal(n, dim, seed=seed + n, dtype=WIDE) for n in (QUERIES, KEYS))
    visible = normal(QUERIES, KEYS, seed=seed) > (-0.3 if masked else -math.inf)
    found = analyse(
        mechanism={"kind": "scaled_dot_product", "scale": scale},
        inputs=qkv(query, key),
        mask={"allowed": visible},
        include=INCLUDE,
    ).rows
    margin, argmax = found["flip_margin"][0, 0], found["argmax"][0, 0].long()
    known = ~margin.isnan()
    assert torch.equal(known, visible.sum(-1) >= 2)
    direction = normal(QUERIES, dim, seed=seed + 1, dtype=WIDE)
    inside = query + direction / direction.norm(dim=-1, keepdim=True) * margin.unsqueeze(-1) * 0.999
    assert torch.equal(argmax_at(inside, key, scale, visible)[known], argmax[known])
    logits = torch.where(visible, scale * query @ key.t(), -math.inf)
    one_head = SimpleNamespace(logits=logits[None, None])
    _, nearest = brute_force(one_head, key[None, None], scale)
    for row in known.nonzero().flatten().tolist():
        towards = key[int(nearest[0, 0, row])] - key[argmax[row]]
        step = math.copysign(1, scale) * towards / towards.norm() * margin[row]
        for factor, changed in ((0.999999, False), (1.000001, True)):
            moved = argmax_at((query[row] + factor * step)[None], key, scale, visible[row])
            assert (int(moved) != int(argmax[row])) is changed


def margins_of(query, key, **request):
    """The margins of one head."""
    rows = analyse(inputs=qkv(query, key), include=INCLUDE, **request).rows
    return rows["flip_margin"][0, 0].tolist()


def test_margins_by_hand():
    """A query between two keys at a distance of 2 is as far from the border as its place says."""
    query = torch.tensor([[0.25, 9.0], [0.0, 9.0], [-3.0, 9.0]])
    key = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert margins_of(query, key) == pytest.approx([0.25, 0, 3])
    assert margins_of(query, key, mask={"causal": "upper_left"}) == pytest.approx(
        [math.nan, 0, 3], nan_ok=True
    )


def test_ties_have_no_margin_and_equal_keys_are_no_border():
    """Two preferred keys that differ leave 0; keys that are the same never take turns."""
    query = torch.tensor([[1.0, 0.0]])
    tied = torch.tensor([[1.0, 1.0], [1.0, -1.0], [0.0, 0.0]])
    assert margins_of(query, tied) == [0]
    same = torch.tensor([[1.0, 1.0], [1.0, 1.0], [0.0, 1.0]])
    assert margins_of(query, same) == pytest.approx([1])
    assert all(map(math.isnan, margins_of(query, same[:2])))
    assert all(map(math.isnan, margins_of(query, same[:1])))


def test_keys_that_nearly_agree_keep_their_distance():
    """Their difference is not lost beside their length."""
    key = torch.tensor([[1e6, 1e-6], [1e6, 0.0]], dtype=WIDE)
    query = torch.tensor([[0.0, 3.0]], dtype=WIDE)
    assert margins_of(query, key) == pytest.approx([3], rel=1e-9)


UNDEFINED = [
    ("scaled_dot_product", {"softcap": 5.0}, {}, "a softcap makes"),
    ("scaled_dot_product", {"qk_norm": "l2"}, {}, "qk_norm makes"),
    ("multi_head", {"qk_norm": "rms"}, {}, "qk_norm makes"),
    ("scaled_dot_product", {"scale": 0.0}, {}, "a scale of 0"),
    ("scaled_dot_product", {}, {"bias": torch.zeros(QUERIES, KEYS)}, "a bias that differs"),
    ("additive", {}, {}, "defined for dot-product scores"),
    ("concat", {}, {}, "defined for dot-product scores"),
]


@pytest.mark.parametrize(("kind", "options", "mask", "reason"), UNDEFINED)
def test_where_borders_are_no_planes_there_is_none(kind, options, mask, reason):
    """Elsewhere it is null for every head, with the reason."""
    case = case_of(kind, dtype=torch.float32, **options)
    found = analyse(**case.request, mask=mask, include=["flip_margin"])
    figure = found.diagnostics["flip_margin"]
    assert reason in figure.reason
    assert figure.mean.shape == (2, HEADS)
    assert figure.mean.isnan().all()
    assert "flip_margin" not in found.rows


@pytest.mark.parametrize("normalizer", ["softmax_one", "sparsemax", "entmax15", "sigmoid"])
def test_the_margin_is_of_the_logits_whatever_weighs_them(normalizer):
    """It asks which logit is largest, so that no normaliser changes it."""
    case, plainly = (case_of("scaled_dot_product", normalizer=n) for n in (normalizer, "softmax"))
    mask = common()
    found, expected = (
        analyse(**c.request, mask=mask, include=INCLUDE).rows["flip_margin"]
        for c in (case, plainly)
    )
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0, equal_nan=True)
