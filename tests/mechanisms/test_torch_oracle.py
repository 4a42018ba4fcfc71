"""Multi-head and grouped attention against torch.nn.MultiheadAttention and torch's own kernel.

A module's state dict becomes parameters by `service.wire.torch_names`; its boolean masks forbid
where the service's allow, and its weights are per head with average_attn_weights=False.
"""

import math

import pytest
import torch
from torch.nn import MultiheadAttention
from torch.nn.functional import scaled_dot_product_attention

from service.wire.torch_names import translated
from tests.builders import analyse, normal, qkv
from tests.mechanisms.variants import double, given

BATCH, HEADS, QUERIES, KEYS, EMBED, KDIM, VDIM = 2, 3, 5, 7, 12, 10, 11
CLOSE = {"rtol": 1e-12, "atol": 1e-13}
HIDDEN_KEYS = torch.arange(KEYS) >= torch.tensor([[4], [6]])


def module(seed, **options):
    """A float64 module with biases other than 0."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = MultiheadAttention(EMBED, HEADS, batch_first=True, dtype=torch.float64, **options)
        for name, parameter in made.named_parameters():
            if "bias" in name:
                torch.nn.init.normal_(parameter)
    return made


def weights_of(made):
    """The module's state dict as parameters of a request."""
    return given(**translated({n: t.detach() for n, t in made.state_dict().items()}))


def compare(made, query, key, value, mask=None, **torch_masks):
    """Output and weights per head of the module and of the service."""
    with torch.no_grad():
        output, weights = made(query, key, value, average_attn_weights=False, **torch_masks)
    found = analyse(
        inputs=qkv(query, key, value),
        mechanism={"kind": "multi_head", "heads": HEADS, "parameters": weights_of(made)},
        mask=mask or {},
        include=["output", "weights"],
    ).tensors
    torch.testing.assert_close(found["output"][:, 0], output, **CLOSE)
    torch.testing.assert_close(found["weights"], weights, **CLOSE)


def cross():
    """Query, key and value of one model dimension."""
    return tuple(
        double(BATCH, length, EMBED, seed=i)
        for i, length in enumerate((QUERIES, KEYS, KEYS), start=1)
    )


@pytest.mark.parametrize("bias", [True, False])
def test_self_attention_is_that_of_torch(bias):
    """One tensor as query, key and value, weights stacked in one matrix."""
    made = module(1, bias=bias)
    assert "in_proj_weight" in made.state_dict()
    query = cross()[0]
    compare(made, query, query, query)


def test_cross_attention_is_that_of_torch():
    """Query and key of other lengths, biases on every projection."""
    compare(module(2), *cross())


def test_cross_attention_of_other_dimensions_is_that_of_torch():
    """With kdim and vdim the module keeps three matrices, by other names."""
    made = module(3, kdim=KDIM, vdim=VDIM)
    assert "q_proj_weight" in made.state_dict()
    query, key = cross()[0], double(BATCH, KEYS, KDIM, seed=4)
    compare(made, query, key, double(BATCH, KEYS, VDIM, seed=5))


def test_boolean_masks_are_those_of_torch():
    """attn_mask and key_padding_mask say where not to attend: allowed is their opposite."""
    forbidden = torch.triu(torch.ones(QUERIES, KEYS, dtype=torch.bool), 1)
    compare(
        module(4),
        *cross(),
        {"allowed": ~forbidden, "key_lengths": torch.tensor([4, 6])},
        attn_mask=forbidden,
        key_padding_mask=HIDDEN_KEYS,
    )


def test_a_float_mask_per_head_is_that_of_torch():
    """A float attn_mask (batch · heads, N, M) is a bias (batch, heads, N, M); −∞ forbids."""
    bias = double(BATCH, HEADS, QUERIES, KEYS, seed=6)
    bias = bias.masked_fill(double(BATCH, HEADS, QUERIES, KEYS, seed=7) > 1.2, -math.inf)
    compare(module(5), *cross(), {"bias": bias}, attn_mask=bias.flatten(0, 1))


def test_an_unbatched_module_is_one_item():
    """Inputs of rank 2 are (length, model_dim) for both."""
    made = module(6)
    query, key, value = (t[1] for t in cross())
    with torch.no_grad():
        output, weights = made(query, key, value, average_attn_weights=False)
    found = analyse(
        inputs=qkv(query, key, value),
        mechanism={"kind": "multi_head", "heads": HEADS, "parameters": weights_of(made)},
        include=["output", "weights"],
    ).tensors
    torch.testing.assert_close(found["output"][0, 0], output, **CLOSE)
    torch.testing.assert_close(found["weights"][0], weights, **CLOSE)


@pytest.mark.parametrize("kv_heads", [1, 3, 6])
@pytest.mark.parametrize("causal", [False, True])
def test_grouped_heads_are_those_of_the_kernel(kv_heads, causal):
    """Query head h uses key head h // group, as scaled_dot_product_attention(enable_gqa=True)."""
    query = double(BATCH, 6, QUERIES, 11, seed=1)
    key, value = double(BATCH, kv_heads, KEYS, 11, seed=2), double(BATCH, kv_heads, KEYS, 8, seed=3)
    expected = scaled_dot_product_attention(query, key, value, is_causal=causal, enable_gqa=True)
    mask = {"causal": "upper_left" if causal else "none"}
    found = analyse(inputs=qkv(query, key, value), mask=mask, include=["output"])
    torch.testing.assert_close(found.tensors["output"], expected, **CLOSE)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_grouped_multi_head_is_the_kernel_on_projected_heads(kv_heads):
    """Multi-query, grouped and plain: torch's kernel between linear layers."""
    heads, dim, value_dim, out = 4, 6, 7, 9
    shapes = {
        "query_weight": (heads * dim, EMBED),
        "key_weight": (kv_heads * dim, KDIM),
        "value_weight": (kv_heads * value_dim, VDIM),
        "output_weight": (out, heads * value_dim),
    }
    weights = {n: double(*s, seed=i) / 3 for i, (n, s) in enumerate(shapes.items(), 1)}
    inputs = [double(BATCH, QUERIES, EMBED, seed=6), double(BATCH, KEYS, KDIM, seed=7)]
    inputs.append(double(BATCH, KEYS, VDIM, seed=8))
    split = [
        torch.nn.functional.linear(x, weights[f"{n}_weight"])
        .unflatten(-1, (own, -1))
        .transpose(1, 2)
        for x, n, own in zip(
            inputs, ("query", "key", "value"), (heads, kv_heads, kv_heads), strict=True
        )
    ]
    bias = normal(1, heads, QUERIES, KEYS, seed=9, dtype=torch.float64)
    joined = scaled_dot_product_attention(*split, attn_mask=bias, enable_gqa=True)
    expected = joined.transpose(1, 2).flatten(-2) @ weights["output_weight"].T
    found = analyse(
        inputs=qkv(*inputs),
        mechanism={
            "kind": "multi_head",
            "heads": heads,
            "kv_heads": kv_heads,
            "parameters": given(**weights),
        },
        mask={"bias": bias},
        include=["output"],
    )
    torch.testing.assert_close(found.tensors["output"][:, 0], expected, **CLOSE)
