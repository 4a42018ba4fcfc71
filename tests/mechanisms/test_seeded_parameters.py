"""Seeded weights are a few lines of PyTorch with a seed of their own, far from the inputs'."""

import math

import pytest
import torch

from tests.builders import analyse, normal, qkv, same_bytes
from tests.mechanisms.variants import given

MATRICES = ["output", "weights", "scores"]
SIZES = {"batch": 2, "heads": 6, "kv_heads": 3, "query_length": 5, "key_length": 7}
SIZES |= {"d_q": 9, "d_k": 11, "d_v": 13}


def generator(seed):
    return torch.Generator().manual_seed(seed)


def weights_from(seed):
    """The generator of weights: no stream of inputs, noise or gradients begins like it."""
    return generator(1_000_000_000 + seed)


def assert_same_answer(seeded, spelled_out):
    """Both requests have the same bytes in output, weights and scores."""
    found, expected = (analyse(**r, include=MATRICES).tensors for r in (seeded, spelled_out))
    assert all(same_bytes(found[name], expected[name]) for name in MATRICES)


def inputs_of(seed):
    """Seeded inputs, and the same from three lines of PyTorch."""
    g = generator(seed)
    query = torch.randn(2, 6, 5, 9, generator=g)
    key = torch.randn(2, 3, 7, 11, generator=g)
    value = torch.randn(2, 3, 7, 13, generator=g)
    return {"kind": "seeded", "seed": seed, **SIZES}, qkv(query, key, value)


@pytest.mark.parametrize("hidden", [None, 17])
def test_seeded_additive_weights_are_three_lines_of_pytorch(hidden):
    """W_q, W_k and v from a seed of their own, over the root of what they sum; A is d_k else."""
    units, g = hidden or 11, weights_from(4)
    query_weight = torch.randn(units, 9, generator=g) / math.sqrt(9)
    key_weight = torch.randn(units, 11, generator=g) / math.sqrt(11)
    score_vector = torch.randn(units, generator=g) / math.sqrt(units)
    own = given(query_weight=query_weight, key_weight=key_weight, score_vector=score_vector)
    drawn, tensors = inputs_of(7)
    parameters = {"kind": "seeded", "seed": 4, "hidden_dim": hidden}
    assert_same_answer(
        {"inputs": drawn, "mechanism": {"kind": "additive", "parameters": parameters}},
        {"inputs": tensors, "mechanism": {"kind": "additive", "parameters": own}},
    )


def test_seeded_general_weights_are_two_lines_of_pytorch():
    """W (d_q, d_k) over sqrt(d_k)."""
    weight = torch.randn(9, 11, generator=weights_from(5)) / math.sqrt(11)
    drawn, tensors = inputs_of(8)
    general = {"kind": "multiplicative", "score": "general"}
    assert_same_answer(
        {"inputs": drawn, "mechanism": {**general, "parameters": {"kind": "seeded", "seed": 5}}},
        {"inputs": tensors, "mechanism": {**general, "parameters": given(weight=weight)}},
    )


@pytest.mark.parametrize("hidden", [None, 17])
def test_seeded_concat_weights_are_three_lines_of_pytorch(hidden):
    """W (A, d_q + d_k) over sqrt(d_q + d_k), then v over sqrt(A)."""
    units, g = hidden or 11, weights_from(6)
    weight = torch.randn(units, 20, generator=g) / math.sqrt(20)
    score_vector = torch.randn(units, generator=g) / math.sqrt(units)
    drawn, tensors = inputs_of(9)
    concat = {"kind": "multiplicative", "score": "concat"}
    seeded = {"kind": "seeded", "seed": 6, "hidden_dim": hidden}
    own = given(weight=weight, score_vector=score_vector)
    assert_same_answer(
        {"inputs": drawn, "mechanism": {**concat, "parameters": seeded}},
        {"inputs": tensors, "mechanism": {**concat, "parameters": own}},
    )


def test_seeded_multi_head_is_a_few_lines_of_pytorch():
    """Inputs (batch, length, model_dim), then W_q, W_k, W_v, W_o by their own seed, no biases."""
    g = generator(3)
    tensors = [torch.randn(2, length, 24, generator=g) for length in (5, 7, 7)]
    g = weights_from(10)
    shapes = {"query": (24, 24), "key": (8, 24), "value": (8, 24), "output": (24, 24)}
    weights = {
        f"{n}_weight": torch.randn(s, generator=g) / math.sqrt(24) for n, s in shapes.items()
    }
    heads = {"kind": "multi_head", "heads": 6, "kv_heads": 2}
    lengths = {"batch": 2, "query_length": 5, "key_length": 7}
    assert_same_answer(
        {
            "inputs": {"kind": "seeded", "seed": 3, "model_dim": 24, **lengths},
            "mechanism": {**heads, "parameters": {"kind": "seeded", "seed": 10}},
        },
        {"inputs": qkv(*tensors), "mechanism": {**heads, "parameters": given(**weights)}},
    )


def test_the_output_projection_is_scaled_by_the_width_of_the_joined_heads():
    """For inputs of other dimensions each weight is over the root of its own input dimension."""
    query, key, value = normal(2, 5, 12), normal(2, 7, 10, seed=1), normal(2, 7, 14, seed=2)
    g = weights_from(0)
    weights = {
        "query_weight": torch.randn(12, 12, generator=g) / math.sqrt(12),
        "key_weight": torch.randn(6, 10, generator=g) / math.sqrt(10),
        "value_weight": torch.randn(6, 14, generator=g) / math.sqrt(14),
        "output_weight": torch.randn(12, 12, generator=g) / math.sqrt(12),
    }
    heads = {"kind": "multi_head", "heads": 4, "kv_heads": 2}
    assert_same_answer(
        {"inputs": qkv(query, key, value), "mechanism": heads},
        {"inputs": qkv(query, key, value), "mechanism": {**heads, "parameters": given(**weights)}},
    )


def test_drawing_touches_no_global_generator():
    """Neither inputs nor weights move torch's own state."""
    before = torch.get_rng_state()
    analyse(mechanism={"kind": "additive"}, include=["output"])
    assert torch.equal(torch.get_rng_state(), before)


def test_equal_seeds_give_inputs_and_weights_of_their_own():
    """With seed 0 for both the weights are not the first inputs: no product is a sum of squares."""
    found = analyse(
        inputs={"kind": "seeded", "query_length": 16, "key_length": 7, "d_k": 16},
        mechanism={"kind": "multiplicative", "score": "general"},
        include=["scores"],
    ).tensors["scores"]
    g = generator(0)
    query, key = torch.randn(16, 16, generator=g), torch.randn(7, 16, generator=g)
    same_stream = query @ (query / 4) @ key.T
    assert (found[0, 0] - same_stream).abs().max() > 1
