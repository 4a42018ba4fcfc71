"""What the mechanisms are to one another: the special cases in which two are the same."""

import math

import pytest
import torch

from tests.builders import analyse, qkv
from tests.mechanisms.variants import (
    ADDITIVE,
    BATCH,
    BIAS,
    CONCAT,
    D_K,
    D_Q,
    D_V,
    GENERAL,
    HEADS,
    HIDDEN,
    KEYS,
    KV_HEADS,
    MASKS,
    QUERIES,
    double,
    given,
    l2,
    multi_head_weights,
    rms,
)

MATRICES = ["output", "weights", "logits", "scores"]
CLOSE = {"rtol": 1e-12, "atol": 1e-12}
MASK = MASKS["bias"]


def operands(d_q=D_K):
    """Query of d_q, key of D_K, value of D_V dimensions, grouped heads."""
    return (
        double(BATCH, HEADS, QUERIES, d_q, seed=1),
        double(BATCH, KV_HEADS, KEYS, D_K, seed=2),
        double(BATCH, KV_HEADS, KEYS, D_V, seed=3),
    )


def matrices(tensors, mechanism, mask=MASK):
    """Output, weights, logits and scores."""
    return analyse(inputs=qkv(*tensors), mechanism=mechanism, mask=mask, include=MATRICES).tensors


def assert_same(found, expected, names=MATRICES):
    """The matrices are equal within rounding."""
    for name in names:
        torch.testing.assert_close(found[name], expected[name], **CLOSE, msg=name)


def multiplicative(score, **options):
    """A request for Luong's attention."""
    return {"kind": "multiplicative", "score": score, **options}


def test_concat_is_additive_with_its_weight_split():
    """vᵀ tanh(W [q; k]) is vᵀ tanh(W_q q + W_k k), W_q the first d_q columns of W."""
    weight, vector = CONCAT["weight"], CONCAT["score_vector"]
    split = given(query_weight=weight[:, :D_Q], key_weight=weight[:, D_Q:], score_vector=vector)
    assert_same(
        matrices(operands(D_Q), multiplicative("concat", parameters=given(**CONCAT))),
        matrices(operands(D_Q), {"kind": "additive", "parameters": split}),
    )


def test_additive_with_a_bias_is_additive_with_a_further_dimension_of_the_key():
    """The bias is a column of W_k that meets a 1 in every key."""
    query, key, value = operands(D_Q)
    longer = torch.cat([key, torch.ones(BATCH, KV_HEADS, KEYS, 1, dtype=torch.float64)], -1)
    wider = {**ADDITIVE, "key_weight": torch.cat([ADDITIVE["key_weight"], BIAS[:, None]], 1)}
    biased = {"kind": "additive", "parameters": given(**ADDITIVE, bias=BIAS)}
    assert_same(
        matrices((query, longer, value), {"kind": "additive", "parameters": given(**wider)}),
        matrices((query, key, value), biased),
    )


def test_dot_with_the_scale_of_vaswani_is_scaled_dot_product():
    """Multiplicative dot with scale 1/sqrt(d_k) is scaled_dot_product; without, its scale is 1."""
    scale = 1 / math.sqrt(D_K)
    expected = matrices(operands(), {"kind": "scaled_dot_product"})
    assert_same(matrices(operands(), multiplicative("dot", scale=scale)), expected)
    unscaled = {"kind": "scaled_dot_product", "scale": 1.0}
    assert_same(matrices(operands(), multiplicative("dot")), matrices(operands(), unscaled))


def test_general_with_the_identity_is_dot():
    """qᵀ I k = q·k."""
    identity = given(weight=torch.eye(D_K, dtype=torch.float64))
    assert_same(
        matrices(operands(), multiplicative("general", parameters=identity)),
        matrices(operands(), multiplicative("dot")),
    )


def test_general_is_dot_of_the_query_and_the_projected_key():
    """qᵀ W k is the product of q and W k."""
    query, key, value = operands(D_Q)
    assert_same(
        matrices((query, key, value), multiplicative("general", parameters=given(weight=GENERAL))),
        matrices((query, key @ GENERAL.T, value), multiplicative("dot")),
    )


def test_small_weights_make_additive_scores_linear():
    """As tanh x → x, vᵀ tanh(ε(W_q q + W_k k)) / ε → vᵀ W_q q + vᵀ W_k k."""
    query, key, value = operands(D_Q)
    small = {n: t * (1e-4 if "weight" in n else 1) for n, t in ADDITIVE.items()}
    mechanism = {"kind": "additive", "scale": 1e4, "parameters": given(**small)}
    found = matrices((query, key, value), mechanism, mask={})["logits"]
    on_query = query @ ADDITIVE["query_weight"].T @ ADDITIVE["score_vector"]
    on_key = key @ ADDITIVE["key_weight"].T @ ADDITIVE["score_vector"]
    expected = on_query[..., None] + on_key.repeat_interleave(2, 1)[:, :, None]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_multi_head_with_identity_projections_and_one_head_is_scaled_dot_product():
    """One head whose projections are identities is attention on the inputs."""
    query, key, value = (t[:, 0] for t in operands())
    eye = {n: torch.eye(d, dtype=torch.float64) for n, d in (("k", D_K), ("v", D_V))}
    weights = given(
        query_weight=eye["k"], key_weight=eye["k"], value_weight=eye["v"], output_weight=eye["v"]
    )
    mask = MASKS["allowed"]
    mechanism = {"kind": "multi_head", "heads": 1, "parameters": weights}
    assert_same(
        matrices((query, key, value), mechanism, mask),
        matrices((query, key, value), {"kind": "scaled_dot_product"}, mask),
    )


def test_as_many_key_heads_as_heads_is_plain_multi_head():
    """kv_heads = heads says what its absence says."""
    weights = multi_head_weights(HEADS, biases=True)
    tensors = double(BATCH, QUERIES, 10, seed=1), double(BATCH, KEYS, 12, seed=2)
    tensors = (*tensors, double(BATCH, KEYS, 14, seed=3))
    mechanism = {"kind": "multi_head", "heads": HEADS, "parameters": given(**weights)}
    found = matrices(tensors, {**mechanism, "kv_heads": HEADS})
    assert_same(found, matrices(tensors, mechanism))


def test_grouped_heads_are_plain_heads_with_their_key_weights_repeated():
    """Fewer key/value heads are the same as the rows of their weights repeated for each query."""
    grouped = multi_head_weights(KV_HEADS, biases=True)
    repeated = {
        n: t.unflatten(0, (KV_HEADS, -1)).repeat_interleave(2, 0).flatten(0, 1)
        if n.startswith(("key", "value"))
        else t
        for n, t in grouped.items()
    }
    tensors = double(BATCH, QUERIES, 10, seed=1), double(BATCH, KEYS, 12, seed=2)
    tensors = (*tensors, double(BATCH, KEYS, 14, seed=3))
    few = {"heads": HEADS, "kv_heads": KV_HEADS, "parameters": given(**grouped)}
    many = {"heads": HEADS, "parameters": given(**repeated)}
    found = matrices(tensors, {"kind": "multi_head", **few})
    assert_same(found, matrices(tensors, {"kind": "multi_head", **many}))


@pytest.mark.parametrize("kind", ["scaled_dot_product", "multiplicative"])
def test_l2_scores_are_cosines(kind):
    """With qk_norm l2 scores are cosines, and logits those times sqrt(d_k)."""
    query, key, value = operands()
    found = matrices((query, key, value), {"kind": kind, "qk_norm": "l2"}, mask={})
    pairs = query[..., None, :], key.repeat_interleave(2, 1)[..., None, :, :]
    cosines = torch.nn.functional.cosine_similarity(*pairs, dim=-1)
    torch.testing.assert_close(found["scores"], cosines, **CLOSE)
    torch.testing.assert_close(found["logits"], cosines * math.sqrt(D_K), **CLOSE)


@pytest.mark.parametrize(("norm", "normalized"), [("l2", l2), ("rms", rms)])
def test_a_norm_is_the_same_as_normalised_inputs(norm, normalized):
    """qk_norm acts on query and key alone, before their product."""
    query, key, value = operands()
    scale = math.sqrt(D_K) if norm == "l2" else 1 / math.sqrt(D_K)
    assert_same(
        matrices((query, key, value), {"qk_norm": norm}),
        matrices((normalized(query), normalized(key), value), {"scale": scale}),
    )


def test_a_query_of_zeros_has_no_direction_and_no_nan():
    """Under l2 and rms a zero vector stays zero: all its scores are 0."""
    query, key, value = operands()
    query[1, 2, 3] = 0
    for norm in ("l2", "rms"):
        found = matrices((query, key, value), {"qk_norm": norm}, mask={})
        assert not found["scores"][1, 2, 3].any()
        expected = value[1, 1].mean(0)
        torch.testing.assert_close(found["output"][1, 2, 3], expected, **CLOSE)


def test_rms_is_blind_to_the_length_of_query_and_key():
    """Inputs 1000 times as long give the same weights, up to the 1e-6 under the root."""
    query, key, value = operands()
    found = matrices((1e3 * query, 1e3 * key, value), {"qk_norm": "rms"})
    expected = matrices((query, key, value), {"qk_norm": "rms"})
    torch.testing.assert_close(found["weights"], expected["weights"], rtol=1e-4, atol=0)


def test_the_hidden_units_are_interchangeable():
    """Permuted hidden units, or the sign of a unit turned in W and v, leave every score."""
    order = torch.randperm(HIDDEN, generator=torch.Generator().manual_seed(1))
    sign = torch.where(torch.arange(HIDDEN) % 3 == 0, -1.0, 1.0).double()
    moved = {n: (t * (sign[:, None] if t.dim() == 2 else sign))[order] for n, t in ADDITIVE.items()}
    assert_same(
        matrices(operands(D_Q), {"kind": "additive", "parameters": given(**moved)}),
        matrices(operands(D_Q), {"kind": "additive", "parameters": given(**ADDITIVE)}),
    )
