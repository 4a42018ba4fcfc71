"""A row's weights are its own: what stands in the rows beside it, NaN even, changes nothing."""

import math

import pytest
import torch

from service.normalizers import NORMALIZERS, reference
from tests.builders import analyse, given_logits, normal, qkv

each_normalizer = pytest.mark.parametrize("name", NORMALIZERS)


@each_normalizer
def test_a_row_whose_logits_overflow_leaves_the_others_alone(name):
    """Finite inputs whose products pass float32 spoil their own row only."""
    query, key, value = normal(5, 7), normal(11, 7, seed=1), normal(11, 3, seed=2)
    query[2] = 3e38
    found = analyse(
        inputs=qkv(query, key, value),
        mechanism={"normalizer": name},
        include=["output", "weights", "row_diagnostics"],
    )
    others = [0, 1, 3, 4]
    scores = query[others].double() @ key.double().T / math.sqrt(7)
    expected = getattr(reference, name)(scores)
    weights, output = (found.tensors[n][0, 0, others].double() for n in ("weights", "output"))
    torch.testing.assert_close(weights, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(output, expected @ value.double(), rtol=1e-5, atol=1e-5)
    assert found.rows["entropy"][0, 0].isnan().tolist() == [False, False, True, False, False]


@each_normalizer
def test_nan_in_a_query_leaves_the_other_rows_alone(name):
    """Where NaN is computed with, the rows of other queries keep their weights."""
    query, key, value = normal(5, 7), normal(11, 7, seed=1), normal(11, 3, seed=2)
    request = {"mechanism": {"normalizer": name}, "compute": {"nonfinite": "propagate"}}
    include = ["output", "weights"]
    clean = analyse(inputs=qkv(query, key, value), include=include, **request).tensors
    query[2, 1] = math.nan
    found = analyse(inputs=qkv(query, key, value), include=include, **request).tensors
    for tensor in include:
        assert found[tensor][0, 0, 2].isnan().all()
        others = [0, 1, 3, 4]
        torch.testing.assert_close(found[tensor][0, 0, others], clean[tensor][0, 0, others])


@each_normalizer
def test_rows_of_every_spread_side_by_side_are_each_their_formula(name):
    """Nearly equal, moderate and one-hot rows, hidden and single ones, weighed in one block."""
    logits = normal(7, 13, dtype=torch.float64) * 10.0 ** torch.arange(-4, 3)[:, None]
    logits[3, 1:] = -math.inf
    logits[5] = -math.inf
    found = analyse(
        inputs=given_logits(logits), mechanism={"normalizer": name}, include=["weights"]
    ).tensors["weights"][0, 0]
    torch.testing.assert_close(found, getattr(reference, name)(logits), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", ["sparsemax", "entmax15"])
def test_long_rows_of_equal_logits_sum_to_1(name):
    """10,000 equal keys share the row to 12 digits, however far the threshold is."""
    logits = torch.full((2, 10_000), 0.25, dtype=torch.float64)
    found = analyse(
        inputs=given_logits(logits), mechanism={"normalizer": name}, include=["weights"]
    ).tensors["weights"]
    torch.testing.assert_close(found, torch.full_like(found, 1e-4), rtol=1e-11, atol=0)
