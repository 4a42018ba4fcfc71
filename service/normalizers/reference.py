"""The readable formulas: the oracles of every faster way, never the way a request takes.

All take logits (…, keys) with −∞ where a key is hidden; a row without a visible key has weights 0.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def softmax(logits: Tensor) -> Tensor:
    """exp(s) / Σ exp(s)."""
    return _of_rows(logits, lambda s: torch.softmax(s, -1))


def softmax_one(logits: Tensor) -> Tensor:
    """exp(s) / (1 + Σ exp(s)): softmax beside a key of logit 0, which is left out again."""
    null = torch.zeros_like(logits[..., :1])
    return torch.softmax(torch.cat([logits, null], -1), -1)[..., :-1]


def sigmoid(logits: Tensor) -> Tensor:
    """1 / (1 + exp(−s))."""
    return torch.sigmoid(logits)


def sparsemax(logits: Tensor) -> Tensor:
    """max(s − τ, 0), τ by bisection on Σ p = 1 (Martins and Astudillo 2016)."""
    return _of_rows(logits, lambda s: _thresholded(s, power=1.0))


def entmax15(logits: Tensor) -> Tensor:
    """max(s/2 − τ, 0)², τ by bisection on Σ p = 1 (Peters, Niculae and Martins 2019)."""
    return _of_rows(logits, lambda s: _thresholded(s / 2, power=2.0))


def _thresholded(shifted: Tensor, *, power: float) -> Tensor:
    high = shifted.amax(-1, keepdim=True)
    low = high - 1
    for _ in range(100):
        middle = (low + high) / 2
        above = ((shifted - middle).clamp(min=0) ** power).sum(-1, keepdim=True) > 1
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return (shifted - low).clamp(min=0) ** power


def _of_rows(logits: Tensor, weigh: Callable[[Tensor], Tensor]) -> Tensor:
    empty = (logits == float("-inf")).all(-1, keepdim=True)
    return torch.where(empty, 0.0, weigh(torch.where(empty, 0.0, logits)))
