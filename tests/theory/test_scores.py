import math

import pytest
import torch

from service.theory.scores import (
    expected_row_variance,
    pooled_second_moment,
    second_moment_standard_error,
)

REPLICATES = 20_000


def drawn_scores(shape, seed, query_mean=0.0, query_std=1.0, key_mean=0.0, key_std=1.0):
    """Scores (replicate, batch, head, query, key) of normal queries and keys."""
    batch, heads, kv_heads, queries, keys, dim = shape
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(REPLICATES, batch, heads, queries, dim, generator=generator)
    k = torch.randn(REPLICATES, batch, kv_heads, keys, dim, generator=generator)
    k = (k * key_std + key_mean).repeat_interleave(heads // kv_heads, dim=2)
    return ((q * query_std + query_mean) @ k.mT).double()


def z_score(samples, expected):
    """How many of its standard errors the samples' mean lies from what is expected."""
    return ((samples.mean() - expected) / (samples.std() / math.sqrt(len(samples)))).item()


MOMENTS = [(0.0, 1.0, 0.0, 1.0), (0.7, 1.3, 0.0, 0.5), (0.0, 0.4, 1.1, 2.0), (0.9, 0.6, -0.8, 1.7)]


def test_unit_normal_scores_have_the_second_moment_d_k():
    """At mean 0 and variance 1 the second moment is d_k, the reason of Vaswani's 1/sqrt(d_k)."""
    assert [pooled_second_moment(d, 0, 1, 0, 1) for d in (1, 64, 128)] == [1, 64, 128]


def test_constant_entries_have_the_square_of_their_product():
    """Without spread every score is d·μq·μk, so its second moment is that squared."""
    assert pooled_second_moment(7, 3, 0, -2, 0) == (7 * 3 * 2) ** 2


@pytest.mark.parametrize("moments", MOMENTS)
def test_the_second_moment_is_that_of_drawn_scores(moments):
    """The pooled second moment lies within four standard errors of simulated scores."""
    samples = (drawn_scores((1, 1, 1, 2, 3, 5), 1, *moments) ** 2).flatten(1).mean(1)
    assert abs(z_score(samples, pooled_second_moment(5, *moments))) <= 4


@pytest.mark.parametrize("moments", MOMENTS)
def test_the_row_variance_is_that_of_drawn_scores(moments):
    """The expected row variance is met by simulated rows, whatever the mean of the keys."""
    samples = drawn_scores((1, 1, 1, 2, 3, 5), 2, *moments).var(-1, correction=0).flatten(1).mean(1)
    query_mean, query_std, _, key_std = moments
    assert abs(z_score(samples, expected_row_variance(5, query_mean, query_std, key_std, 3.0))) <= 4


def test_row_variance_takes_a_count_per_row():
    """The expected row variance follows a tensor of visible keys elementwise; one key has none."""
    visible = torch.tensor([[1.0, 2.0, 4.0]])
    assert expected_row_variance(16, 0.0, 1.0, 0.5, visible).tolist() == [[0.0, 2.0, 3.0]]


SHAPES = [(1, 1, 1, 5, 7, 3), (2, 6, 2, 3, 5, 7), (1, 6, 1, 2, 13, 5), (3, 2, 2, 7, 2, 11)]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_standard_error_is_the_spread_of_drawn_scores(shape):
    """The standard error is the standard deviation of the simulated mean square, grouped or not."""
    batch, heads, kv_heads, queries, keys, dim = shape
    means = (drawn_scores(shape, 3) ** 2).flatten(1).mean(1)
    predicted = second_moment_standard_error(
        float(dim),
        d_k=dim,
        batch=batch,
        heads=heads,
        kv_heads=kv_heads,
        queries=queries,
        keys=keys,
    )
    squares = (means - dim) ** 2
    assert abs(z_score(squares, predicted**2)) <= 4
    assert squares.std() / squares.mean() < 0.04 * math.sqrt(REPLICATES)  # sharp enough to fail


@pytest.mark.parametrize("shape", SHAPES)
def test_one_key_fewer_gives_the_standard_error_of_the_row_variance(shape):
    """With M − 1 for M the standard error is that of the simulated mean row variance."""
    batch, heads, kv_heads, queries, keys, dim = shape
    means = drawn_scores(shape, 4).var(-1, correction=0).flatten(1).mean(1)
    expected = expected_row_variance(dim, 0.0, 1.0, 1.0, float(keys))
    predicted = second_moment_standard_error(
        expected,
        d_k=dim,
        batch=batch,
        heads=heads,
        kv_heads=kv_heads,
        queries=queries,
        keys=keys - 1,
    )
    assert abs(z_score((means - expected) ** 2, predicted**2)) <= 4


def test_the_standard_error_is_in_the_unit_of_the_prediction():
    """Twice the prediction has twice the standard error."""
    one, two = (
        second_moment_standard_error(p, d_k=4, batch=1, heads=1, kv_heads=1, queries=5, keys=5)
        for p in (1.0, 2.0)
    )
    assert two == 2 * one > 0


def test_moments_past_the_largest_float_are_infinite():
    """Float64 tensors may have them: an infinite prediction, not an exception."""
    assert pooled_second_moment(3, 1e200, 1.0, 1e200, 1.0) == math.inf
    assert expected_row_variance(3, 1e200, 1.0, 1e200, 5.0) == math.inf
