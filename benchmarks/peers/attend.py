"""The job that every peer does, as one would write it: imported by the servers beside it."""

import math

import torch

FIGURES = ("entropy", "max_weight", "logit_variance")


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, weights: bool = True
) -> dict[str, torch.Tensor]:
    """Output, weights where asked for, and three figures of each head, means over its rows."""
    logits = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
    p = torch.softmax(logits, -1)
    rows = {
        "entropy": -(p * (p + 1e-12).log()).sum(-1),
        "max_weight": p.amax(-1),
        "logit_variance": logits.var(-1, correction=0),
    }
    found = {"output": p @ value} | ({"weights": p} if weights else {})
    return found | {name: figure.mean(-1) for name, figure in rows.items()}


def seeded(seed: int, heads: int, queries: int, keys: int, dim: int) -> tuple[torch.Tensor, ...]:
    """Query, key and value of independent normal entries, drawn in that order."""
    generator = torch.Generator().manual_seed(seed)
    lengths = (queries, keys, keys)
    return tuple(torch.randn(1, heads, length, dim, generator=generator) for length in lengths)
