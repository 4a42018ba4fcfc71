"""The readable formulas: the oracles of every faster way, never the way a request takes."""

from collections.abc import Mapping

import torch
from torch import Tensor


def dot(query: Tensor, key: Tensor) -> Tensor:
    """q·k (Vaswani et al. 2017, equation 1; Luong et al. 2015, dot).

    Args:
        query: (batch, heads, N, d_k).
        key: (batch, heads, M, d_k).

    Returns:
        Scores (batch, heads, N, M), as from every function here.
    """
    return query @ key.transpose(-2, -1)


def general(query: Tensor, key: Tensor, weight: Tensor) -> Tensor:
    """qᵀ W k with W (d_q, d_k) (Luong et al. 2015, general)."""
    return query @ weight @ key.transpose(-2, -1)


def concat(query: Tensor, key: Tensor, weight: Tensor, score_vector: Tensor) -> Tensor:
    """vᵀ tanh(W [q; k]) with W (hidden, d_q + d_k), v (hidden) (Luong et al. 2015, concat)."""
    queries, keys = query.shape[-2], key.shape[-2]
    left = query.unsqueeze(-2).expand(*query.shape[:-1], keys, query.shape[-1])
    right = key.unsqueeze(-3).expand(*key.shape[:-2], queries, keys, key.shape[-1])
    joined = torch.cat([left, right], dim=-1)
    return torch.tanh(joined @ weight.t()) @ score_vector


def additive(
    query: Tensor,
    key: Tensor,
    query_weight: Tensor,
    key_weight: Tensor,
    score_vector: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    """vᵀ tanh(W_q q + W_k k + b) (Bahdanau, Cho and Bengio 2014, appendix A.1.2)."""
    projected = (query @ query_weight.t()).unsqueeze(-2) + (key @ key_weight.t()).unsqueeze(-3)
    return torch.tanh(projected if bias is None else projected + bias) @ score_vector


def heads_of(tensor: Tensor, weight: Tensor, bias: Tensor | None, heads: int) -> Tensor:
    """Project (batch, length, model_dim) by x Wᵀ + b to (batch, heads, length, dim)."""
    projected = tensor @ weight.t()
    if bias is not None:
        projected = projected + bias
    batch, length, width = projected.shape
    return projected.view(batch, length, heads, width // heads).transpose(1, 2)


def multi_head_operands(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    weights: Mapping[str, Tensor],
    heads: int,
    kv_heads: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Per-head query, key and value (Vaswani et al. 2017, section 3.2.2)."""
    return (
        heads_of(query, weights["query_weight"], weights.get("query_bias"), heads),
        heads_of(key, weights["key_weight"], weights.get("key_bias"), kv_heads),
        heads_of(value, weights["value_weight"], weights.get("value_bias"), kv_heads),
    )


def multi_head_output(output: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
    """Join the heads (batch, heads, N, d_v) and project them to (batch, N, output_dim)."""
    joined = output.transpose(1, 2).flatten(-2)
    projected = joined @ weights["output_weight"].t()
    bias = weights.get("output_bias")
    return projected if bias is None else projected + bias
