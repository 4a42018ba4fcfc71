"""What one would write in a notebook: the formula, and the diagnostics one by one."""

import math

import torch
from torch import Tensor


def attention(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The three lines: output, weights, logits."""
    logits = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
    weights = torch.softmax(logits, -1)
    return weights @ value, weights, logits


def diagnose(query: Tensor, key: Tensor, value: Tensor) -> dict[str, Tensor]:
    """The three lines and the diagnostics of the service, each on the whole matrix."""
    output, p, s = attention(query, key, value)
    entropy = -(p * (p + 1e-12).log()).sum(-1)
    top = s.topk(2, -1).values
    squares, cubes = p.square().sum(-1), p.pow(3).sum(-1)
    mean = (p * s).sum(-1, keepdim=True)
    return {
        "output": output,
        "argmax": s.argmax(-1),
        "lse": s.logsumexp(-1),
        "entropy": entropy,
        "normalized_entropy": entropy / math.log(s.shape[-1]),
        "effective_keys": entropy.exp(),
        "participation_ratio": 1 / squares,
        "max_weight": p.amax(-1),
        "logit_gap": top[..., 0] - top[..., 1],
        "logit_mean": s.mean(-1),
        "logit_variance": s.var(-1, correction=0),
        "logit_max": s.amax(-1),
        "logit_min": s.amin(-1),
        "jacobian_trace": 1 - squares,
        "jacobian_frobenius": (squares - 2 * cubes + squares.square()).clamp(min=0).sqrt(),
        "logit_variance_under_p": (p * (s - mean).square()).sum(-1),
    }
