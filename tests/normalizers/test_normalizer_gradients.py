"""The gradient of each normaliser against autograd of its readable formula, and differences."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from service.normalizers import NORMALIZERS, reference
from tests.builders import normal

DOUBLE = torch.float64
HEADS, QUERIES, KEYS = 3, 5, 7
each_normalizer = pytest.mark.parametrize("name", NORMALIZERS)


def by_differences(name, logits, upstream, step=1e-6):
    """⟨upstream, dp/ds⟩ by central differences of the readable formula, key by key."""
    formula = getattr(reference, name)
    found = torch.zeros_like(logits)
    for key in range(logits.shape[-1]):
        moved = torch.zeros_like(logits)
        moved[..., key] = step
        slope = (formula(logits + moved) - formula(logits - moved)) / (2 * step)
        found[..., key] = (slope * upstream).sum(-1)
    return found


def backward(name, logits, upstream):
    """The member's own gradient, from its own weights."""
    return NORMALIZERS[name].backward(getattr(reference, name)(logits), upstream)


@each_normalizer
def test_the_gradient_is_the_slope_of_the_weights(name):
    """Central differences of the readable formula agree, away from the borders of a support."""
    logits = normal(HEADS, QUERIES, KEYS, seed=3, dtype=DOUBLE)
    upstream = normal(HEADS, QUERIES, KEYS, seed=4, dtype=DOUBLE)
    weights = getattr(reference, name)(logits)
    assert name not in ("sparsemax", "entmax15") or (weights == 0).any()
    expected = by_differences(name, logits, upstream)
    torch.testing.assert_close(backward(name, logits, upstream), expected, rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("name", ["softmax", "softmax_one", "sigmoid"])
def test_the_gradient_of_a_smooth_normalizer_is_that_of_autograd(name):
    """Through the readable formula torch finds the same gradient."""
    logits = 2 * normal(HEADS, QUERIES, KEYS, seed=5, dtype=DOUBLE)
    upstream = normal(HEADS, QUERIES, KEYS, seed=6, dtype=DOUBLE)
    logits.requires_grad_()
    (getattr(reference, name)(logits) * upstream).sum().backward()
    found = backward(name, logits.detach(), upstream)
    torch.testing.assert_close(found, logits.grad, rtol=1e-12, atol=1e-14)


def on_its_support(name, logits):
    """The sparse weights as a smooth function where the support stays: τ solved in closed form."""
    support = getattr(reference, name)(logits.detach()) > 0
    shifted = logits if name == "sparsemax" else logits / 2
    k = support.sum(-1, keepdim=True)
    kept = torch.where(support, shifted, 0.0)
    mean = kept.sum(-1, keepdim=True) / k
    if name == "sparsemax":
        return torch.where(support, shifted - mean + 1 / k, 0.0)
    spread = torch.where(support, (shifted - mean).square(), 0.0).sum(-1, keepdim=True)
    threshold = mean - ((1 - spread) / k).sqrt()
    return torch.where(support, (shifted - threshold).square(), 0.0)


@pytest.mark.parametrize("name", ["sparsemax", "entmax15"])
def test_the_gradient_of_a_sparse_normalizer_is_that_of_autograd_on_its_support(name):
    """With the support held, the threshold is differentiable in closed form."""
    logits = normal(HEADS, QUERIES, KEYS, seed=7, dtype=DOUBLE).requires_grad_()
    upstream = normal(HEADS, QUERIES, KEYS, seed=8, dtype=DOUBLE)
    weights = on_its_support(name, logits)
    torch.testing.assert_close(weights.sum(-1), torch.ones(HEADS, QUERIES, dtype=DOUBLE))
    (weights * upstream).sum().backward()
    found = backward(name, logits.detach(), upstream)
    torch.testing.assert_close(found, logits.grad, rtol=1e-10, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(sorted(NORMALIZERS)),
    seed=st.integers(0, 999),
    spread=st.sampled_from([0.1, 1.0, 10.0]),
)
def test_laws_of_the_gradient(name, seed, spread):
    """It is 0 where the weight is; rows that sum to 1 pass no constant; it is symmetric."""
    logits = spread * normal(HEADS, QUERIES, KEYS, seed=seed, dtype=DOUBLE)
    logits = logits.masked_fill(normal(HEADS, QUERIES, KEYS, seed=seed + 1) > 1, -math.inf)
    weights = getattr(reference, name)(logits)
    left, right = (normal(HEADS, QUERIES, KEYS, seed=seed + i, dtype=DOUBLE) for i in (2, 3))
    member = NORMALIZERS[name]
    found = member.backward(weights, right)
    assert not found[weights == 0].any()
    there, back = (left * found).sum(-1), (right * member.backward(weights, left)).sum(-1)
    torch.testing.assert_close(there, back, rtol=1e-11, atol=1e-13)
    if name not in ("softmax_one", "sigmoid"):
        constant = member.backward(weights, torch.ones_like(weights))
        torch.testing.assert_close(constant, torch.zeros_like(weights), rtol=0, atol=1e-12)


@each_normalizer
def test_a_row_without_a_key_passes_nothing_and_no_nan(name):
    """Weights of 0 throughout have a gradient of 0, whatever comes from above."""
    weights = torch.zeros(HEADS, QUERIES, KEYS)
    upstream = normal(HEADS, QUERIES, KEYS)
    assert not NORMALIZERS[name].backward(weights, upstream).any()
