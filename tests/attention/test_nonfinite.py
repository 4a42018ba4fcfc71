import math

import pytest
import torch

from service.errors import NonFinite
from tests.builders import analyse, everything, given_logits, given_weights, normal, qkv
from tests.passes import set_blocks

BATCH, HEADS, KV_HEADS, QUERIES, KEYS, D_K, D_V = 2, 6, 3, 5, 7, 11, 13
PROPAGATE = {"nonfinite": "propagate"}
ROWS_INCLUDED = ["output", "row_diagnostics", "diagnostics"]


@pytest.fixture(params=[2, 1024], ids=["key blocks of 2", "whole rows"], autouse=True)
def key_block(request, monkeypatch):
    """Every rule holds for rows in several ranges of keys and for whole rows."""
    set_blocks(monkeypatch, keys=request.param)


def operands(seed=0):
    """Query, key and value, each axis of another size."""
    query = normal(BATCH, HEADS, QUERIES, D_K, seed=seed + 1)
    key = normal(BATCH, KV_HEADS, KEYS, D_K, seed=seed + 2)
    return query, key, normal(BATCH, KV_HEADS, KEYS, D_V, seed=seed + 3)


def propagate(query, key, value, mask=None, include=ROWS_INCLUDED):
    """An analysis that computes with NaN and infinity."""
    inputs = qkv(query, key, value)
    return analyse(inputs=inputs, mask=mask or {}, include=include, compute=PROPAGATE)


def assert_only(rows, analysis, clean):
    """Exactly these rows (batch, heads, N) have NaN output; all others are those of `clean`."""
    output, expected = analysis.tensors["output"], clean.tensors["output"]
    assert output[rows].isnan().all()
    torch.testing.assert_close(output[~rows], expected[~rows], rtol=1e-5, atol=1e-6)
    for name, figures in clean.rows.items():
        found = analysis.rows[name]
        torch.testing.assert_close(
            found[~rows], figures[~rows], rtol=1e-5, atol=1e-5, equal_nan=True, msg=name
        )


def no_rows():
    """A selection of rows (batch, heads, N), empty as yet."""
    return torch.zeros(BATCH, HEADS, QUERIES, dtype=torch.bool)


def test_nan_in_a_query_reaches_its_rows_only():
    """A NaN query gives NaN output and no figures in its own row, and touches no other."""
    query, key, value = operands()
    clean = propagate(query, key, value)
    query[1, 2, 3, 5] = math.nan
    rows = no_rows()
    rows[1, 2, 3] = True
    found = propagate(query, key, value)
    assert_only(rows, found, clean)
    undefined = {n: f[rows] for n, f in found.rows.items() if n not in ("visible_keys", "argmax")}
    assert all(figures.isnan().all() for figures in undefined.values())
    assert found.rows["visible_keys"][rows].tolist() == [KEYS]
    assert found.rows["argmax"][rows].tolist() == [-1]
    assert found.numerics.nonfinite_inputs == 1
    assert found.diagnostics["entropy"].rows[1].tolist() == [5, 5, 4, 5, 5, 5]


def test_nan_in_a_masked_key_or_value_leaks_nowhere():
    """Whatever stands at a forbidden key, NaN or infinity, no output and no figure shows it."""
    query, key, value = operands()
    mask = {"key_lengths": torch.tensor([4, 7]), "causal": "upper_left"}
    clean = propagate(query, key, value, mask)
    key[0, :, 4:] = math.nan
    value[0, :, 5] = math.inf
    value[0, :, 6, 3] = math.nan
    key[1, 1, 5] = -math.inf
    found = propagate(query, key, value, mask)
    assert_only(no_rows(), found, clean)
    assert found.numerics.overflowed_logits == 0
    assert found.numerics.nonfinite_inputs == KV_HEADS * (3 * D_K + D_V + 1) + D_K


def test_nan_in_a_key_reaches_the_rows_that_see_it():
    """A NaN key spoils exactly the rows of its key/value head that may attend to it."""
    query, key, value = operands()
    clean = propagate(query, key, value, {"causal": "upper_left"})
    key[1, 2, 3] = math.nan
    rows = no_rows()
    rows[1, 4:6, 3:] = True
    assert_only(rows, propagate(query, key, value, {"causal": "upper_left"}), clean)


def test_nan_in_a_visible_value_reaches_exactly_its_rows_and_column():
    """A NaN value shows in its own output dimension, in the rows that see its key."""
    query, key, value = operands()
    clean = propagate(query, key, value, {"causal": "upper_left"})
    value[0, 1, 2, 7] = math.nan
    found = propagate(query, key, value, {"causal": "upper_left"})
    output, expected = found.tensors["output"], clean.tensors["output"].clone()
    expected[0, 2:4, 2:, 7] = math.nan
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-6, equal_nan=True)
    assert found.numerics.overflowed_logits == 0
    assert found.diagnostics["entropy"].rows.eq(QUERIES).all()


def test_infinite_values_follow_ieee():
    """A positive weight times ±∞ is ±∞, both together are NaN, and a weight of 0 gives NaN."""
    row = [0.0, -1.0, -2.0, -200.0, -math.inf]
    values = torch.zeros(5, 6)
    values[1, 0] = math.inf
    values[2, 1] = -math.inf
    values[0, 2], values[2, 2] = math.inf, -math.inf
    values[3, 3] = math.inf
    values[4, 4] = math.nan
    values[3, 5] = math.nan
    logits = torch.tensor([row])
    found = analyse(
        inputs=given_logits(logits, values), include=["output"], compute=PROPAGATE
    ).tensors["output"]
    expected = [math.inf, -math.inf, math.nan, math.nan, 0.0, math.nan]
    assert found.flatten().tolist() == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("sign", [1, -1])
def test_an_overflowing_logit_is_counted_and_its_row_undefined(sign):
    """Finite inputs whose product leaves float32 leave figures undefined, never infinite."""
    query, key, value = operands()
    query[:, :, :, 0] = query[:, :, :, 0].abs() + 1
    key[0, 1, :, 0] = key[0, 1, :, 0].abs()
    mask = {"causal": "upper_left"}
    clean = analyse(inputs=qkv(query, key, value), mask=mask, include=ROWS_INCLUDED)
    query[0, 2, :, 0] *= 1e20
    key[0, 1, 2:4, 0] = sign * 1e20
    found = analyse(inputs=qkv(query, key, value), mask=mask, include=ROWS_INCLUDED)
    rows = no_rows()
    rows[0, 2, 2:] = True
    assert found.numerics.overflowed_logits == 3 + 2
    assert found.numerics.nonfinite_inputs == 0
    untouched = ~rows
    untouched[0, 2:4] = False
    for name, figures in found.rows.items():
        assert not figures.isinf().any(), name
        if name not in ("visible_keys", "argmax"):
            assert figures[rows].isnan().all(), name
        torch.testing.assert_close(
            figures[untouched], clean.rows[name][untouched], rtol=1e-5, atol=1e-5, equal_nan=True
        )
    assert found.diagnostics["max_weight"].rows[0].tolist() == [5, 5, 2, 5, 5, 5]
    assert found.tensors["output"][rows].isnan().all() == (sign > 0)


def test_a_figure_that_overflows_is_undefined():
    """Finite logits whose variance leaves float64 have no variance; the rest is as it is."""
    logits = torch.zeros(2, 7, dtype=torch.float64)
    logits[0, 1:3], logits[1, 1] = -1.2e154, -1e200
    found = analyse(inputs=given_logits(logits), include=["row_diagnostics"])
    assert found.rows["logit_variance"].isnan().all()
    assert found.rows["saturation_index"].isnan().all()
    assert found.rows["logit_min"].flatten().tolist() == [-1.2e154, -1e200]
    assert found.rows["max_weight"].flatten().tolist() == pytest.approx([1 / 5, 1 / 6])
    assert not any(figures.isinf().any() for figures in found.rows.values())


def test_a_masked_overflow_is_none():
    """A product that leaves float32 at a forbidden key is not counted and hurts no figure."""
    query, key, value = operands()
    key[:, :, 5:] = 3e38
    mask = {"key_lengths": torch.tensor([5, 3])}
    found = analyse(inputs=qkv(query * 1e3, key, value), mask=mask, include=ROWS_INCLUDED)
    assert found.numerics.overflowed_logits == 0
    assert found.diagnostics["entropy"].rows.eq(QUERIES).all()
    assert found.tensors["output"].isfinite().all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["query", "key", "value"])
def test_nan_and_infinity_are_refused_by_default(name, bad):
    """The refusal names the tensor, how many of its elements are bad, and the first of them."""
    inputs = qkv(*operands())
    inputs[name][1, 2, 3, 5] = bad
    inputs[name][1, 2, 4] = bad
    count = 1 + inputs[name].shape[-1]
    with pytest.raises(NonFinite, match=rf"{name} holds {count} .* \[1, 2, 3, 5\]") as error:
        analyse(inputs=inputs)
    assert error.value.pointer == f"/inputs/{name}"


def test_opposite_infinities_do_not_cancel_before_the_scan():
    """+∞ and −∞ in one tensor, whose sum is NaN, are both counted."""
    inputs = qkv(normal(5, 11))
    inputs["query"][2, 1], inputs["query"][4, 0] = math.inf, -math.inf
    with pytest.raises(NonFinite, match=r"query holds 2 .* \[2, 1\]"):
        analyse(inputs=inputs)


def test_finite_entries_whose_sum_overflows_are_accepted():
    """Only elements are judged: finite numbers near the end of the range are no fault."""
    inputs = qkv(torch.full((5, 3), 3e38), torch.zeros(7, 3), torch.full((7, 3), -3e37))
    found = analyse(inputs=inputs, include=["output"])
    torch.testing.assert_close(found.tensors["output"], torch.full((1, 1, 5, 3), -3e37))


@pytest.mark.parametrize("compute", [{}, PROPAGATE], ids=["refuse", "propagate"])
def test_minus_infinity_in_given_logits_hides(compute):
    """−∞ among given logits forbids the key; a row of nothing else is fully masked."""
    logits = normal(3, KEYS, seed=1)
    logits[0, 2:5] = -math.inf
    logits[1] = -math.inf
    value = normal(KEYS, D_V, seed=2)
    found = analyse(
        inputs=given_logits(logits, value),
        include=["output", "weights", "row_diagnostics"],
        compute=compute,
    )
    kept = [0, 1, 5, 6]
    expected = torch.softmax(logits[0, kept].double(), -1)
    weights = found.tensors["weights"][0, 0]
    torch.testing.assert_close(weights[0, kept].double(), expected, rtol=1e-6, atol=0)
    assert not weights[0, 2:5].any()
    assert not weights[1].any()
    assert not found.tensors["output"][0, 0, 1].any()
    assert found.rows["visible_keys"].flatten().tolist() == [4, 0, KEYS]
    assert found.numerics.fully_masked_rows == 1
    assert found.numerics.nonfinite_inputs == found.numerics.overflowed_logits == 0


def test_nan_and_plus_infinity_in_given_logits_are_refused_or_propagate():
    """NaN and +∞ logits are refused by default; else they are counted and spoil their rows."""
    logits = normal(3, KEYS, seed=1)
    logits[0, 3], logits[2, 1], logits[2, 5] = math.nan, math.inf, -math.inf
    with pytest.raises(NonFinite, match=r"logits holds 2 .* \[0, 3\]"):
        analyse(inputs=given_logits(logits))
    inputs = given_logits(logits, normal(KEYS, D_V))
    found = analyse(inputs=inputs, include=ROWS_INCLUDED, compute=PROPAGATE)
    assert found.numerics.nonfinite_inputs == found.numerics.overflowed_logits == 2
    assert found.rows["entropy"].isnan().flatten().tolist() == [True, False, True]
    assert found.tensors["output"].isnan().all(-1).flatten().tolist() == [True, False, True]


@pytest.mark.parametrize("compute", [{}, PROPAGATE], ids=["refuse", "propagate"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_given_weights_and_a_bias_are_never_nan_or_infinite(bad, compute):
    """A weight or bias of NaN or +∞ has no meaning to propagate: it is refused either way."""
    weights = torch.full((3, KEYS), 1 / KEYS)
    weights[1, 4] = bad
    with pytest.raises(NonFinite, match=r"weights holds 1 .* \[1, 4\]"):
        analyse(inputs=given_weights(weights), compute=compute)
    bias = torch.zeros(3, KEYS)
    bias[2, 0] = bad
    inputs = qkv(normal(3, D_K), normal(KEYS, D_K))
    with pytest.raises(NonFinite, match=r"mask.bias holds 1 .* \[2, 0\]"):
        analyse(inputs=inputs, mask={"bias": bias}, compute=compute)


def test_finite_inputs_propagate_to_the_same_answer():
    """Allowing NaN and infinity changes nothing where there are none."""
    include = ["output", "weights", "row_diagnostics"]
    allowed = everything(propagate(*operands(), include=include))
    refused = everything(analyse(inputs=qkv(*operands()), include=include))
    assert all(torch.equal(allowed[n].nan_to_num(), t.nan_to_num()) for n, t in refused.items())
