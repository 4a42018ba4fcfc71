"""Expectations over normal queries and keys, before anything is drawn."""

import math

import pytest
import torch

from service.theory.normal_logits import expected_entropy, expected_sum_of_squares
from service.theory.normal_queries import expected_rows

KEYS = (2, 7, 128, 1000)


def by_dense_sums(d_k, scale, keys):
    """The average over ln‖q‖ by a fine trapezoid, each σ evaluated on its own."""
    y = torch.linspace(-24, math.log(math.sqrt(d_k) + 8), 1201, dtype=torch.float64)
    norm = y.exp()
    weight = d_k * y - norm.square() / 2
    weight = (weight - weight.max()).exp()
    n = torch.tensor(float(keys))
    found = (expected_entropy(scale * norm, n), expected_sum_of_squares(scale * norm, n))
    return [float((f * weight).sum() / weight.sum()) for f in found]


@pytest.mark.parametrize("scale", [0.05, 1.0, 30.0, 300.0])
@pytest.mark.parametrize("d_k", [1, 2, 3, 16, 300])
def test_it_is_the_average_over_the_norm_of_the_query(d_k, scale):
    """Equal to a dense sum over the χ distribution, for few dimensions and steep scales too."""
    keys = KEYS[d_k % 4]
    entropy, squares = expected_rows(d_k, scale, keys)
    dense = by_dense_sums(d_k, scale, keys)
    assert entropy == pytest.approx(dense[0], rel=1e-5, abs=1e-9)
    assert squares == pytest.approx(dense[1], rel=1e-5)


@pytest.mark.parametrize(("d_k", "scale", "keys"), [(1, 2.0, 5), (3, 0.7, 40), (64, 1.0, 128)])
def test_it_is_what_many_draws_give(d_k, scale, keys):
    """|z| ≤ 4 against a million rows, drawn without the service."""
    generator = torch.Generator().manual_seed(d_k)
    rows = 2_000_000 // keys
    query = torch.randn(rows, d_k, generator=generator, dtype=torch.float64)
    # Given its query, a row's logits are iid N(0, scale² ‖q‖²).
    normal = torch.randn(rows, keys, generator=generator, dtype=torch.float64)
    weights = torch.softmax(scale * query.norm(dim=-1, keepdim=True) * normal, -1)
    found = (torch.special.entr(weights).sum(-1), weights.square().sum(-1))
    for measured, expected in zip(found, expected_rows(d_k, scale, keys), strict=True):
        z = (measured.mean() - expected) / (measured.std() / math.sqrt(rows))
        assert abs(float(z)) <= 4


def test_the_sign_of_the_scale_does_not_matter():
    """Logits are symmetric about 0."""
    assert expected_rows(8, -0.5, 16) == expected_rows(8, 0.5, 16)


def test_a_scale_of_0_weighs_all_keys_alike():
    """Entropy ln n, Σp² 1/n."""
    assert expected_rows(8, 0.0, 16) == pytest.approx((math.log(16), 1 / 16))


def test_one_key_has_all_the_weight():
    """Entropy 0, Σp² 1, whatever the rest."""
    assert expected_rows(4096, 1e6, 1) == (0.0, 1.0)


@pytest.mark.parametrize(("scale", "keys"), [(1e6, 128), (1.0, 2 * 10**9), (math.inf, 2)])
def test_outside_its_range_there_is_nothing(scale, keys):
    """Neither a guess nor an error."""
    assert all(math.isnan(value) for value in expected_rows(64, scale, keys))


def test_steeper_scales_leave_less_entropy():
    """Monotone in the scale, from ln n to 0."""
    found = [expected_rows(16, scale, 128) for scale in (0.01, 0.1, 0.25, 1.0, 4.0, 100.0)]
    entropies, squares = zip(*found, strict=True)
    assert list(entropies) == sorted(entropies, reverse=True)
    assert list(squares) == sorted(squares)
    assert entropies[0] == pytest.approx(math.log(128), rel=1e-3)
    assert squares[-1] > 0.98
