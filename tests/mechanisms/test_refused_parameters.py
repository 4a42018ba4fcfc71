"""Learned weights and options that do not fit are refused, each with its place."""

import pytest
import torch

from schemas.attention import AttentionRequest
from service.errors import Invalid, ShapeMismatch
from service.plan import plan
from tests.builders import given_logits, given_weights, normal, qkv
from tests.mechanisms.variants import ALL, given


def additive(**changed):
    """Weights of additive for d_q 9, d_k 11, some of them replaced, None left out."""
    own = ALL["additive: with bias"].mechanism["parameters"] | changed
    return {"kind": "additive", "parameters": {n: t for n, t in own.items() if t is not None}}


def concat(**changed):
    """Weights of concat, likewise."""
    own = ALL["multiplicative: concat"].mechanism["parameters"] | changed
    parameters = {n: t for n, t in own.items() if t is not None}
    return {"kind": "multiplicative", "score": "concat", "parameters": parameters}


def multi_head(heads=6, kv_heads=6, **changed):
    """Weights of multi_head, likewise."""
    own = ALL["multi_head: plain"].mechanism["parameters"] | changed
    return {"kind": "multi_head", "heads": heads, "kv_heads": kv_heads, "parameters": own}


def general(weight, **more):
    """Weights of general."""
    return {
        "kind": "multiplicative",
        "score": "general",
        "parameters": given(weight=weight, **more),
    }


DIVIDED = qkv(normal(2, 6, 5, 9), normal(2, 3, 7, 11), normal(2, 3, 7, 13))
EQUAL = qkv(normal(2, 6, 5, 11), normal(2, 3, 7, 11), normal(2, 3, 7, 13))
UNDIVIDED = qkv(normal(2, 5, 10), normal(2, 7, 12), normal(2, 7, 14))
RANK_4 = qkv(normal(2, 3, 5, 10))
DOT = {"kind": "multiplicative"}
PARAMETERS = "/mechanism/parameters"
SEEDED_MULTI_HEAD = {"kind": "multi_head", "heads": 4}

REFUSED = {
    "a query weight of another width": (
        DIVIDED,
        additive(query_weight=normal(17, 8)),
        ShapeMismatch,
        f"{PARAMETERS}/query_weight",
    ),
    "a key weight transposed": (
        DIVIDED,
        additive(key_weight=normal(11, 17)),
        ShapeMismatch,
        f"{PARAMETERS}/key_weight",
    ),
    "a score vector that is a matrix": (
        DIVIDED,
        additive(score_vector=normal(17, 1)),
        ShapeMismatch,
        f"{PARAMETERS}/score_vector",
    ),
    "a score vector that is a number": (
        DIVIDED,
        additive(score_vector=normal()),
        ShapeMismatch,
        f"{PARAMETERS}/",
    ),
    "an empty score vector": (
        DIVIDED,
        additive(score_vector=normal(0)),
        ShapeMismatch,
        f"{PARAMETERS}/",
    ),
    "a bias of another length": (
        DIVIDED,
        additive(bias=normal(16)),
        ShapeMismatch,
        f"{PARAMETERS}/bias",
    ),
    "a concat weight of another width": (
        DIVIDED,
        concat(weight=normal(17, 19)),
        ShapeMismatch,
        f"{PARAMETERS}/weight",
    ),
    "concat without its vector": (
        DIVIDED,
        concat(score_vector=None),
        Invalid,
        f"{PARAMETERS}/score_vector",
    ),
    "a general weight transposed": (
        DIVIDED,
        general(normal(11, 9)),
        ShapeMismatch,
        f"{PARAMETERS}/weight",
    ),
    "a vector for general": (
        DIVIDED,
        general(normal(9, 11), score_vector=normal(9)),
        Invalid,
        f"{PARAMETERS}/score_vector",
    ),
    "weights for dot": (
        EQUAL,
        DOT | {"parameters": given(weight=normal(11, 11))},
        Invalid,
        PARAMETERS,
    ),
    "dot of other dimensions": (DIVIDED, DOT, ShapeMismatch, "/inputs"),
    "scaled dot products of other dimensions": (DIVIDED, {}, ShapeMismatch, "/inputs"),
    "qk_norm with additive": (
        DIVIDED,
        {"kind": "additive", "qk_norm": "l2"},
        Invalid,
        "/mechanism/qk_norm",
    ),
    "qk_norm with concat": (
        DIVIDED,
        DOT | {"score": "concat", "qk_norm": "rms"},
        Invalid,
        "/mechanism/qk_norm",
    ),
    "heads that kv_heads do not divide": (
        UNDIVIDED,
        multi_head(6, 4),
        ShapeMismatch,
        "/mechanism/kv_heads",
    ),
    "rows that heads do not divide": (
        UNDIVIDED,
        multi_head(5, 5),
        Invalid,
        f"{PARAMETERS}/query_weight",
    ),
    "value rows that kv_heads do not divide": (
        UNDIVIDED,
        multi_head(value_weight=normal(47, 14)),
        Invalid,
        f"{PARAMETERS}/value_weight",
    ),
    "a key weight of another head dimension": (
        UNDIVIDED,
        multi_head(key_weight=normal(30, 12)),
        ShapeMismatch,
        f"{PARAMETERS}/key_weight",
    ),
    "an output weight of another width": (
        UNDIVIDED,
        multi_head(output_weight=normal(15, 47)),
        ShapeMismatch,
        f"{PARAMETERS}/output_weight",
    ),
    "an output bias of the heads' width": (
        UNDIVIDED,
        multi_head(output_bias=normal(48)),
        ShapeMismatch,
        f"{PARAMETERS}/output_bias",
    ),
    "a query weight of rank 1": (
        UNDIVIDED,
        multi_head(query_weight=normal(24)),
        ShapeMismatch,
        f"{PARAMETERS}/query_weight",
    ),
    "model_dim that heads do not divide": (
        UNDIVIDED,
        SEEDED_MULTI_HEAD,
        ShapeMismatch,
        "/mechanism/heads",
    ),
    "rank 4 with multi_head": (
        RANK_4,
        {"kind": "multi_head", "heads": 2},
        ShapeMismatch,
        "/inputs/query",
    ),
    "model_dim with dot products": (
        {"kind": "seeded", "model_dim": 64},
        {},
        ShapeMismatch,
        "/inputs/model_dim",
    ),
    "model_dim with additive": (
        {"kind": "seeded", "model_dim": 64},
        {"kind": "additive"},
        ShapeMismatch,
        "/inputs/model_dim",
    ),
    "a mechanism beside logits": (
        given_logits(normal(5, 7)),
        {"kind": "additive"},
        Invalid,
        "/mechanism/kind",
    ),
    "multi_head beside weights": (
        given_weights(torch.full((5, 7), 1 / 7)),
        {"kind": "multi_head"},
        Invalid,
        "/mechanism/kind",
    ),
    "qk_norm beside logits": (
        given_logits(normal(5, 7)),
        {"qk_norm": "l2"},
        Invalid,
        "/mechanism/qk_norm",
    ),
    "a normaliser beside weights": (
        given_weights(torch.full((5, 7), 1 / 7)),
        {"normalizer": "sigmoid"},
        Invalid,
        "/mechanism/normalizer",
    ),
} | {
    f"{name} with seeded multi_head": (
        {"kind": "seeded", "model_dim": 64, name: 8},
        SEEDED_MULTI_HEAD,
        ShapeMismatch,
        f"/inputs/{name}",
    )
    for name in ("heads", "kv_heads", "d_q", "d_k", "d_v")
}


@pytest.mark.parametrize(("inputs", "mechanism", "error", "pointer"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused_with_its_place(inputs, mechanism, error, pointer):
    """The plan refuses it before anything is allocated, and points at the field."""
    with pytest.raises(error) as refused:
        plan(AttentionRequest.model_validate({"inputs": inputs, "mechanism": mechanism}))
    assert refused.value.pointer.startswith(pointer)
    assert refused.value.detail


@pytest.mark.parametrize("mechanism", [additive(), general(normal(9, 11)), concat()])
def test_learned_scores_take_other_dimensions_of_query_and_key(mechanism):
    """Additive, general and concat compare a query of 9 with keys of 11 dimensions."""
    planned = plan(AttentionRequest.model_validate({"inputs": DIVIDED, "mechanism": mechanism}))
    assert (planned.shape.d_q, planned.shape.d_k, planned.shape.d_v) == (9, 11, 13)


def test_an_unknown_weight_is_refused_by_name():
    """A key that is no weight of the mechanism fails the validation of the request."""
    with pytest.raises(ValueError, match="value_weight"):
        AttentionRequest.model_validate({"mechanism": additive(value_weight=normal(3, 3))})


def test_a_missing_weight_is_refused_by_name():
    """Additive without W_k fails the validation of the request."""
    with pytest.raises(ValueError, match="key_weight"):
        AttentionRequest.model_validate({"mechanism": additive(key_weight=None)})
