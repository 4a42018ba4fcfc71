import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from service.attention import rows
from service.attention.brief import attending as brief
from service.attention.native import library
from tests.builders import analyse, everything, normal, plain_figures, qkv, same_bytes
from tests.passes import set_blocks

DOUBLE = torch.float64
INCLUDE = ["output", "row_diagnostics"]
INDICES = ("argmax", "visible_keys")
MEANS = {"logit_mean": "logit_max_abs", "score_mean": "score_max_abs"}


@pytest.fixture(autouse=True)
def each_pass(monkeypatch):
    """The eager pass alone has this way; here it has it for short rows too."""
    monkeypatch.setattr(library, "available", lambda: None)
    monkeypatch.setattr(brief, "LEAST_KEYS", 64)


@pytest.fixture
def general(monkeypatch):
    """The widths of the blocks that the general way took."""
    widths, fast = [], rows.fast
    monkeypatch.setattr(rows, "fast", lambda s, *rest: widths.append(s.shape[-1]) or fast(s, *rest))
    return widths


def expected_of(query, key, value, scale=None):
    """Every figure and the output in float64, from logits that are exact in it."""
    query, key, value = query.double(), key.double(), value.double()
    key, value = (t.repeat_interleave(query.shape[1] // t.shape[1], 1) for t in (key, value))
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    logits = query @ key.mT * scale
    return {**plain_figures(logits), "output": torch.softmax(logits, -1) @ value}


def whole(*shape, seed, std=1.0, dtype=torch.float32):
    """Entries in eighths: their products are exact in float32, whatever order they are added in."""
    return (normal(*shape, seed=seed, dtype=DOUBLE) * 8 * std).round().to(dtype) / 8


def assert_right(found, expected, tolerance):
    """Each figure within its relative tolerance; places and counts exactly."""
    for name, want in expected.items():
        if name not in found:
            continue
        loose = tolerance if name not in INDICES else 0.0
        # A mean near 0 is as exact as the entries are.
        entries = float(expected[MEANS[name]].nan_to_num().max()) if name in MEANS else 1.0
        close = {"rtol": loose, "atol": loose * entries / 10, "equal_nan": True, "msg": name}
        torch.testing.assert_close(found[name].double(), want, **close)


@pytest.mark.parametrize("keys", [64, 65, 129, 300])
@pytest.mark.parametrize("block", [3, 8, 64, 1024])
@pytest.mark.parametrize("std", [1e-3, 0.3, 1.0, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=str)
def test_every_figure_is_its_plain_definition(keys, block, std, dtype, general, monkeypatch):
    """Flat to sharp rows, in one range of keys and in many; by the brief way if it can foresee."""
    monkeypatch.setattr(brief, "KEY_BLOCK", block)
    query = normal(2, 4, 33, 24, seed=1, dtype=dtype) * std
    key, value = (normal(2, 2, keys, 24, seed=s, dtype=dtype) for s in (2, 3))
    found = everything(analyse(inputs=qkv(query, key, value), include=INCLUDE))
    assert len(found) > 20
    assert not general or block < 64 or std > 1
    tolerance = 1e-12 if dtype == DOUBLE else 2e-5
    assert_right(found, expected_of(query, key, value), tolerance)


@pytest.mark.parametrize("scale", [0.125, -0.5, 0.3, -1e-3])
def test_any_scale_is_applied(scale, general):
    """A power of two goes into the queries, any other onto the scores; the sign stays."""
    query, key, value = (normal(1, 2, 70, 16, seed=s) for s in (1, 2, 3))
    found = analyse(inputs=qkv(query, key, value), mechanism={"scale": scale}, include=INCLUDE)
    assert not general
    assert_right(everything(found), expected_of(query, key, value, scale), 2e-5)


@pytest.mark.parametrize("block", [16, 1024])
@pytest.mark.parametrize("shift", [0.0, 30.0, 1e3])
def test_a_mean_that_all_keys_share_takes_no_digits(shift, block, general, monkeypatch):
    """Logits far from 0 have the figures of their differences; the general way is not needed."""
    monkeypatch.setattr(brief, "KEY_BLOCK", block)
    query, key = whole(1, 2, 40, 16, seed=1), whole(1, 2, 96, 16, seed=2)
    query[..., 0], key[..., 0] = 1.0, shift * 4
    value = normal(1, 2, 96, 16, seed=3)
    found = everything(analyse(inputs=qkv(query, key, value), include=INCLUDE))
    expected = expected_of(query, key, value)
    assert_right(found, {n: f for n, f in expected.items() if n != "argmax"}, 2e-5)


def outlier(query, key, height):
    """Make the first key stand out, by about so much for every query."""
    query[..., 0], key[..., 0] = 1.0, 0.0
    key[:, :, 0] = 0.0
    key[:, :, 0, 0] = height * math.sqrt(query.shape[-1])


def tie(query, key, height):
    """Give two keys in one range the same largest logit."""
    outlier(query, key, 5.0)
    key[:, :, 3] = key[:, :, 0]


def late(query, key, height):
    """The last key stands out, beyond what the first ones let expect."""
    outlier(query, key, height)
    key[:] = key.flip(2)


def alike(query, key, height):
    """All keys are the same."""
    key[:] = key[:, :, :1]


def spread(query, key, height):
    """Logits whose least exponential flushes."""
    query *= 20


CASES = {
    "sink 3": (outlier, 3.0),
    "sink 6": (outlier, 6.0),
    "sink 12": (outlier, 12.0),
    "sink 40": (outlier, 40.0),
    "late 7": (late, 7.0),
    "late 15": (late, 15.0),
    "late 60": (late, 60.0),
    "tie": (tie, 0.0),
    "alike": (alike, 0.0),
    "spread": (spread, 0.0),
}


@pytest.mark.parametrize("block", [16, 1024])
@pytest.mark.parametrize("name", CASES)
def test_rows_that_no_estimate_foresees_have_the_same_figures(name, block, monkeypatch):
    """Sinks, ties and late maxima are right too, by whichever way they are computed."""
    monkeypatch.setattr(brief, "KEY_BLOCK", block)
    query, key = whole(1, 2, 40, 16, seed=1, std=0.5), whole(1, 2, 96, 16, seed=2, std=0.5)
    value = normal(1, 2, 96, 16, seed=3)
    change, height = CASES[name]
    change(query, key, height)
    found = everything(analyse(inputs=qkv(query, key, value), include=INCLUDE))
    expected = expected_of(query, key, value)
    if name in ("tie", "alike"):
        # Where several keys have the largest logit, the first is named.
        assert torch.equal(found["argmax"], torch.zeros_like(found["argmax"]))
    if name == "alike":
        assert_right(found, {"entropy": expected["entropy"], "output": expected["output"]}, 1e-5)
        assert not found["logit_variance"].any()
        return
    assert_right(found, expected, 3e-5)


@settings(max_examples=60, deadline=None)
@given(
    keys=st.integers(2, 40),
    block=st.integers(3, 41),
    group=st.integers(1, 3),
    std=st.sampled_from([0.05, 0.5, 1.0, 3.0, 9.0]),
    dtype=st.sampled_from([torch.float32, DOUBLE]),
    seed=st.integers(0, 999),
)
def test_the_brief_way_is_the_general_one(keys, block, group, std, dtype, seed):
    """At any number of keys and cut into any ranges both ways give the same figures."""
    query = normal(2, 2 * group, 5, 8, seed=seed, dtype=dtype) * std
    key, value = (normal(2, 2, keys, 8, seed=seed + s, dtype=dtype) for s in (1, 2))
    request = {"inputs": qkv(query, key, value), "include": INCLUDE}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(brief, "LEAST_KEYS", 2)
        patch.setattr(brief, "KEY_BLOCK", block)
        found = everything(analyse(**request))
        patch.setattr(brief, "LEAST_KEYS", 1000)
        expected = everything(analyse(**request))
    assert_right(found, {n: f.double() for n, f in expected.items()}, 2e-5)


@pytest.mark.parametrize("threads", [1, 3])
def test_some_units_by_either_way_have_the_bytes_of_each_alone(threads, monkeypatch):
    """An item beside one whose rows the brief way gives up has the same bytes as without it."""
    set_blocks(monkeypatch, logits=2000)
    monkeypatch.setattr(brief, "KEY_BLOCK", 40)
    query, key, value = (normal(3, 2, 31, 8, seed=s) for s in (1, 2, 3))
    query[1] *= 60
    together = everything(analyse(inputs=qkv(query, key, value), include=INCLUDE, threads=threads))
    for item in range(3):
        own = [t[item : item + 1] for t in (query, key, value)]
        alone = everything(analyse(inputs=qkv(*own), include=INCLUDE))
        for name, tensor in alone.items():
            assert same_bytes(tensor[0], together[name][item]), name


@pytest.mark.parametrize("place", ["query", "key", "value"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e38])
def test_what_is_not_finite_or_too_large_takes_the_general_way(place, bad, general):
    """NaN, infinities and sums near the largest number come out as without the brief way."""
    operands = {n: normal(1, 2, 70, 8, seed=s) for s, n in enumerate(("query", "key", "value"))}
    operands[place][0, 1, 5, 3] = bad
    request = {
        "inputs": qkv(**operands),
        "include": INCLUDE,
        "compute": {"nonfinite": "propagate"},
    }
    found = analyse(**request)
    assert general
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(brief, "LEAST_KEYS", 1000)
        expected = analyse(**request)
    assert found.numerics == expected.numerics
    assert_right(everything(found), {n: f.double() for n, f in everything(expected).items()}, 2e-5)
