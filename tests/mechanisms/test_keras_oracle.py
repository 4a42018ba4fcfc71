"""Additive and multiplicative attention against the layers of Keras 3, on its torch backend.

| Keras | request |
| --- | --- |
| AdditiveAttention, `scale` s | additive, W_q = W_k = I, score_vector s |
| AdditiveAttention(use_scale=False) | the same with score_vector of ones |
| Attention(score_mode="dot"), `scale` c | multiplicative dot, scale c (1 without) |
| Attention(score_mode="concat"), c, `concat_score_weight` w | concat, W = [cI, cI], v = w · 1 |
| mask=[None, value mask] | allowed, or key_lengths |
| use_causal_mask | causal upper_left |

Inputs go to Keras as [query, value, key]. Its products are float32 whatever its layers are, so that
its output, and its weights where scores are products, are compared in that precision.
"""

import os

import pytest
import torch

os.environ["KERAS_BACKEND"] = "torch"  # read when Keras is imported

import keras

from tests.builders import analyse, qkv
from tests.mechanisms.variants import double, given

BATCH, QUERIES, KEYS, DIM, D_V = 2, 5, 7, 11, 13
TOLERANCE = {
    torch.float64: {"rtol": 1e-12, "atol": 1e-13},
    torch.float32: {"rtol": 5e-6, "atol": 2e-6},
}
EYE = torch.eye(DIM, dtype=torch.float64)
SEEN = torch.arange(KEYS) < torch.tensor([[4], [6]])

MASKS = {
    "none": ({}, {}),
    "padded": ({"key_lengths": torch.tensor([4, 6])}, {"mask": [None, SEEN]}),
    "causal": ({"causal": "upper_left"}, {"use_causal_mask": True}),
    "both": (
        {"causal": "upper_left", "allowed": SEEN[:, None]},
        {"mask": [None, SEEN], "use_causal_mask": True},
    ),
}


def operands():
    """Query, key and value of rank 3."""
    return (
        double(BATCH, QUERIES, DIM, seed=1),
        double(BATCH, KEYS, DIM, seed=2),
        double(BATCH, KEYS, D_V, seed=3),
    )


def built(layer, **weights):
    """The layer with these weights instead of its initial ones."""
    query, key, value = operands()
    layer.build([query.shape, value.shape, key.shape])
    for name, weight in weights.items():
        getattr(layer, name).assign(weight)
    return layer


def compare(layer, mechanism, mask):
    """Output and weights of the layer and of the service."""
    query, key, value = operands()
    own, of_keras = MASKS[mask]
    with torch.no_grad():
        output, weights = layer([query, value, key], return_attention_scores=True, **of_keras)
    found = analyse(
        inputs=qkv(query, key, value), mechanism=mechanism, mask=own, include=["output", "weights"]
    ).tensors
    for name, expected in (("output", output), ("weights", weights)):
        have, tolerance = found[name][:, 0], TOLERANCE[expected.dtype]
        torch.testing.assert_close(have, expected.double(), **tolerance, msg=name)


def additive(vector):
    """Additive attention without projections."""
    weights = given(query_weight=EYE, key_weight=EYE, score_vector=vector)
    return {"kind": "additive", "parameters": weights}


@pytest.mark.parametrize("mask", MASKS)
def test_additive_attention_is_that_of_keras(mask):
    """AdditiveAttention is additive with W_q = W_k = I and its scale as score_vector."""
    scale = double(DIM, seed=4)
    layer = built(keras.layers.AdditiveAttention(dtype="float64"), scale=scale)
    compare(layer, additive(scale), mask)


def test_additive_attention_without_scale_is_that_of_keras():
    """Without a scale the hidden units are summed: score_vector is 1 throughout."""
    layer = built(keras.layers.AdditiveAttention(use_scale=False, dtype="float64"))
    compare(layer, additive(torch.ones(DIM, dtype=torch.float64)), "causal")


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("scale", [None, 0.3])
def test_dot_attention_is_that_of_keras(scale, mask):
    """Attention with score_mode dot is multiplicative dot, with use_scale its scale."""
    layer = keras.layers.Attention(use_scale=scale is not None, dtype="float64")
    layer = built(layer, **({} if scale is None else {"scale": scale}))
    compare(layer, {"kind": "multiplicative", "scale": scale}, mask)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("scale", [None, 0.3])
def test_concat_attention_is_that_of_keras(scale, mask):
    """Attention with score_mode concat is concat with W = [cI, cI] and v = w throughout."""
    layer = keras.layers.Attention(
        score_mode="concat", use_scale=scale is not None, dtype="float64"
    )
    weights = {"concat_score_weight": 1.7} | ({} if scale is None else {"scale": scale})
    layer = built(layer, **weights)
    joined = torch.cat([EYE, EYE], 1) * (scale or 1.0)
    vector = torch.full((DIM,), 1.7, dtype=torch.float64)
    mechanism = {"kind": "multiplicative", "score": "concat"}
    compare(layer, {**mechanism, "parameters": given(weight=joined, score_vector=vector)}, mask)
