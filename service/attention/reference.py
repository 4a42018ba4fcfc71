"""The readable formula: the oracle of every faster way, never the way a request takes."""

import torch
from torch import Tensor


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scale: float,
    softcap: float | None = None,
    visible: Tensor | None = None,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Softmax(scale · q kᵀ) v with masks (Vaswani et al. 2017, equation 1).

    Args:
        query: (batch, heads, N, d_k).
        key: (batch, kv_heads, M, d_k); head h uses kv head h // (heads / kv_heads).
        value: (batch, kv_heads, M, d_v).
        scale: factor on the scores.
        softcap: c · tanh(logit / c), before bias and masks.
        visible: boolean, broadcastable to (batch, heads, N, M); True = may attend.
        bias: added to the logits; −∞ forbids.

    Returns:
        output (batch, heads, N, d_v), weights, logits (−∞ where forbidden) and scores
        (batch, heads, N, M). A row without a visible key has output and weights 0.
    """
    group = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    scores = query @ key.transpose(-2, -1)
    logits = scores * scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    if bias is not None:
        logits = logits + bias
    if visible is not None:
        logits = torch.where(visible, logits, float("-inf"))
    weights = softmax(logits)
    return weights @ value, weights, logits, scores


def softmax(logits: Tensor) -> Tensor:
    """exp(s) / Σ exp(s) over the last axis; 0 where a row is −∞ throughout."""
    empty = (logits == float("-inf")).all(-1, keepdim=True)
    return torch.where(empty, 0.0, torch.softmax(torch.where(empty, 0.0, logits), -1))
