"""Learned weights that hold NaN or infinity: refused by default, computed with where asked."""

import math

import pytest
import torch

from service.errors import NonFinite
from tests.builders import analyse, normal, qkv
from tests.mechanisms.variants import ALL

PARAMETERS = "/mechanism/parameters"
DIVIDED = qkv(normal(2, 6, 5, 9), normal(2, 3, 7, 11), normal(2, 3, 7, 13))
UNDIVIDED = qkv(normal(2, 5, 10), normal(2, 7, 12), normal(2, 7, 14))


def changed(name, **weights):
    """The mechanism of a variant with some of its weights replaced."""
    mechanism = ALL[name].mechanism
    return {**mechanism, "parameters": mechanism["parameters"] | weights}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_weight_that_is_not_finite_is_refused_by_name_and_place(bad):
    """NaN and infinity in a weight are named, counted and placed."""
    weight = ALL["additive: with bias"].mechanism["parameters"]["key_weight"].clone()
    weight[3, 5] = weight[4, 1] = bad
    with pytest.raises(NonFinite, match=r"key_weight holds 2 .*\[3, 5\]") as refused:
        analyse(inputs=DIVIDED, mechanism=changed("additive: with bias", key_weight=weight))
    assert refused.value.pointer == f"{PARAMETERS}/key_weight"


def test_a_weight_that_overflows_in_the_cast_is_refused():
    """A float64 weight beyond float32 is no finite number for float32 inputs."""
    weight = torch.full((9, 11), 1e39, dtype=torch.float64)
    with pytest.raises(NonFinite, match="weight holds 99"):
        analyse(inputs=DIVIDED, mechanism=changed("multiplicative: general", weight=weight))


def test_a_weight_that_is_not_finite_is_counted_where_it_is_computed_with():
    """With nonfinite propagate the counts of weights and inputs add up, and the output is NaN."""
    bias = torch.zeros(17)
    bias[2] = math.nan
    query = DIVIDED["query"].clone()
    query[0, 0, 0, :2] = math.inf
    found = analyse(
        inputs=DIVIDED | {"query": query},
        mechanism=changed("additive: with bias", bias=bias),
        compute={"nonfinite": "propagate"},
        include=["output"],
    )
    assert found.numerics.nonfinite_inputs == 3
    assert found.tensors["output"].isnan().all()


def test_an_output_bias_that_is_nan_reaches_its_column_only():
    """What comes after the heads spoils what comes after the heads: one dimension of the output."""
    bias = torch.zeros(15)
    bias[4] = math.nan
    found = analyse(
        inputs=UNDIVIDED,
        mechanism=changed("multi_head: plain", output_bias=bias),
        compute={"nonfinite": "propagate"},
        include=["output", "weights"],
    )
    wrong = found.tensors["output"].isnan()
    assert wrong[..., 4].all()
    assert wrong.sum() == wrong[..., 4].numel()
    assert not found.tensors["weights"].isnan().any()
