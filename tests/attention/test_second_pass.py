import math

import pytest
import torch

from service.attention.spectrum import largest_eigenvalue
from tests.builders import analyse, given_logits, given_weights, normal, qkv, visible_pairs
from tests.passes import set_blocks

BATCH, HEADS, QUERIES, KEYS = 2, 3, 11, 7
DOUBLE = torch.float64


@pytest.fixture(params=[20, 2**18], ids=["some rows", "whole"], autouse=True)
def block_logits(request, monkeypatch):
    """Every figure is the same whether a unit is a row, some rows or all of an item."""
    set_blocks(monkeypatch, logits=request.param)


def case(dtype, std=1.0):
    """Logits with masks that leave some rows one key and some none, and which keys are seen."""
    logits = normal(BATCH, HEADS, QUERIES, KEYS, seed=1, dtype=dtype) * std
    mask = {
        "causal": "upper_left",
        "offset": torch.tensor([-2, 0]),
        "allowed": normal(1, HEADS, QUERIES, KEYS, seed=2) > -1,
    }
    return logits, mask, visible_pairs((BATCH, HEADS, QUERIES, KEYS), **mask)


def weights_of(logits, visible):
    """Softmax in float64 over the visible keys; 0 for rows without one."""
    wide = logits.double().masked_fill(~visible, -math.inf)
    return torch.softmax(wide, -1).nan_to_num(0.0)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=str)
def test_the_key_share_is_the_mean_weight_from_the_rows_that_see_the_key(dtype):
    """Σ_i p_ij over the rows that see key j, divided by their number; NaN where no row does."""
    logits, mask, visible = case(dtype)
    visible[..., 6] = False
    mask = {**mask, "key_lengths": torch.tensor([6, 6])}
    found = analyse(inputs=given_logits(logits), mask=mask, include=["key_share"])
    expected = weights_of(logits, visible).sum(-2) / visible.sum(-2)
    assert expected.isnan().sum() == BATCH * HEADS
    torch.testing.assert_close(
        found.tensors["key_share"], expected, rtol=2e-6, atol=0, equal_nan=True
    )


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=str)
@pytest.mark.parametrize("threshold", [None, 0.01, 0.3, 0.9])
def test_sparsity_is_the_share_of_weights_far_below_the_rows_maximum(threshold, dtype):
    """The share of visible weights below the threshold times the row's maximum, 1 % by default."""
    logits, mask, visible = case(dtype, std=3.0)
    item = "sparsity" if threshold is None else {"name": "sparsity", "threshold": threshold}
    found = analyse(inputs=given_logits(logits), mask=mask, include=[item]).rows["sparsity"]
    weights = weights_of(logits, visible)
    small = visible & (weights < (threshold or 0.01) * weights.amax(-1, keepdim=True))
    expected = small.sum(-1) / visible.sum(-1).double()
    assert 0 < expected.nan_to_num().mean() < 1
    assert expected.isnan().any()
    torch.testing.assert_close(found, expected, rtol=1e-15, atol=0, equal_nan=True)


def largest_by_lapack(weights):
    """The largest eigenvalue of diag(p) − p pᵀ."""
    jacobian = torch.diag_embed(weights) - weights.unsqueeze(-1) * weights.unsqueeze(-2)
    return torch.linalg.eigvalsh(jacobian)[..., -1]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (DOUBLE, 1e-13)], ids=str)
@pytest.mark.parametrize("std", [0.0, 0.1, 1.0, 5.0])
def test_the_spectral_norm_is_the_largest_eigenvalue(std, dtype, tolerance):
    """The bisection gives what an eigenvalue solver gives; undefined without a key, 0 with one."""
    logits, mask, visible = case(dtype, std)
    found = analyse(
        inputs=given_logits(logits), mask=mask, include=["jacobian_spectral", "row_diagnostics"]
    ).rows
    eigenvalue, seen = found["jacobian_spectral"], visible.sum(-1)
    assert {0, 1, 2} <= set(seen.flatten().tolist())
    expected = largest_by_lapack(weights_of(logits, visible)).where(seen > 0, math.nan)
    torch.testing.assert_close(eigenvalue, expected, rtol=tolerance, atol=tolerance, equal_nan=True)
    assert not eigenvalue[seen == 1].any()
    several = seen > 1
    slack = 1 + 1e-6
    assert (found["jacobian_spectral_lower"] <= eigenvalue * slack)[several].all()
    assert (eigenvalue <= found["jacobian_spectral_upper"] * slack)[several].all()


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([0.0, 0.0], 1 / 2),
        ([5.0, 5.0, 5.0], 1 / 3),
        ([0.0, math.log(3.0), math.log(3.0)], 3 / 7),
        ([0.0, math.log(3.0)], 2 * 3 / 16),
        ([7.0], 0.0),
    ],
    ids=["two", "three", "tie of the largest", "two unequal", "one"],
)
def test_the_spectral_norm_by_hand(row, expected):
    """A tie of the largest weights gives that weight; two keys give 2p(1 − p); one key 0."""
    logits = torch.tensor([row, row], dtype=DOUBLE)
    found = analyse(inputs=given_logits(logits), include=["jacobian_spectral"])
    assert found.rows["jacobian_spectral"].flatten().tolist() == pytest.approx([expected] * 2)


def test_the_spectral_norm_keeps_its_digits_as_a_row_sharpens():
    """With two keys it is 2p(1 − p) at every gap to 80, relatively, where 1 − p is 1e-35."""
    gap = torch.arange(0, 80, 0.5, dtype=DOUBLE)
    logits = torch.stack([torch.zeros_like(gap), -gap], -1).float()
    found = analyse(inputs=given_logits(logits), include=["jacobian_spectral"])
    rest = (-gap).exp() / (1 + (-gap).exp())
    expected = 2 * rest / (1 + (-gap).exp())
    torch.testing.assert_close(found.rows["jacobian_spectral"][0, 0], expected, rtol=1e-5, atol=0)


def test_the_bisection_reaches_the_last_digits():
    """On weights in float64 the root is exact to 1e-14, near ties and near one-hot included."""
    spread = torch.tensor([1e-12, 1e-6, 1e-3, 0.1, 1.0, 4.0, 20.0], dtype=DOUBLE)
    logits = normal(7, 13, seed=3, dtype=DOUBLE).sort(-1, descending=True).values
    weights = torch.softmax(logits * spread.unsqueeze(-1), -1)
    others = weights.clone()
    others[:, 0] = 0
    found = largest_eigenvalue(weights[:, 0], others.sum(-1), others)
    torch.testing.assert_close(found, largest_by_lapack(weights), rtol=1e-13, atol=1e-15)


def test_an_overflowed_row_counts_nowhere():
    """A row with an overflowed logit has no figures and adds to no key's share."""
    query, key = normal(QUERIES, 5, seed=1).abs(), normal(KEYS, 5, seed=2).abs()
    include = ["key_share", "sparsity", "jacobian_spectral", "weights"]
    query[4] *= 1e30
    key[3] *= 1e15
    found = analyse(inputs=qkv(query, key), include=include)
    kept = [i for i in range(QUERIES) if i != 4]
    for name in ("sparsity", "jacobian_spectral"):
        assert found.rows[name][0, 0, 4].isnan()
        assert found.rows[name][0, 0, kept].isfinite().all()
    expected = found.tensors["weights"][0, 0, kept].double().mean(0)
    torch.testing.assert_close(found.tensors["key_share"][0, 0], expected, rtol=1e-5, atol=1e-30)


def test_a_weight_of_zero_is_a_visible_one():
    """Given weights of 0 are seen: they lower a key's share and count as small."""
    weights = torch.zeros(5, KEYS)
    weights[:3, 0], weights[3:, 2] = 1.0, 1.0
    found = analyse(inputs=given_weights(weights), include=["key_share", "sparsity"])
    expected = weights.double().mean(0)
    torch.testing.assert_close(found.tensors["key_share"][0, 0], expected)
    assert found.rows["sparsity"].flatten().tolist() == pytest.approx([6 / 7] * 5)
