"""Limits of softmax statistics over very many iid normal logits: labels, not predictions.

All are n → ∞ asymptotes of the random energy model with σ of the order of sqrt(ln n), the entropy
to leading order in ln n. They are far off at the sizes of attention: at σ = 3 and n = 128 the
entropy's asymptote is 0.35 nats where the expectation is 2.17. `normal_logits` has the finite-n
values. The functions broadcast, and answer NaN outside σ ≥ 0, n ≥ 2.

Source: Giorlandino and Goldt 2025 (arXiv 2505.24333), after Derrida 1981.
"""

import math

import torch
from torch import Tensor

LIMIT = "n -> infinity only, far off at finite n: random energy model, arXiv 2505.24333"


def critical_sigma(n: Tensor) -> Tensor:
    """σ_c = sqrt(2 ln n), where n iid N(0, σ²) logits condense on few keys as n → ∞.

    In that limit the entropy per ln n is 0 from σ_c on, and Σp² is 0 up to σ_c. At finite n
    nothing abrupt happens there.
    """
    return torch.sqrt(2 * torch.log(n)).where(n >= 2, math.nan)


def entropy_limit(sigma: Tensor, n: Tensor) -> Tensor:
    """H = ln n − σ²/2 nats for σ < σ_c, else 0: the entropy to leading order in ln n.

    Beyond σ_c the entropy does not vanish; it stays of order 1 while ln n grows (its limit there is
    ψ(1) − ψ(1 − σ_c/σ), ψ the digamma function).
    """
    limit = (torch.log(n) - sigma**2 / 2).where(sigma < critical_sigma(n), 0.0)
    return _where_valid(limit, sigma, n)


def participation_limit(sigma: Tensor, n: Tensor) -> Tensor:
    """max(0, 1 − σ_c/σ): the limit of Σp², the inverse participation ratio.

    Not of the participation ratio 1/Σp². Of 1 − Σp², the trace of the softmax Jacobian, the limit
    is min(1, σ_c/σ).
    """
    critical = critical_sigma(n)
    limit = (1 - critical / sigma).where(sigma > critical, 0.0)
    return _where_valid(limit, sigma, n)


def _where_valid(limit: Tensor, sigma: Tensor, n: Tensor) -> Tensor:
    return limit.where((sigma >= 0) & (n >= 2), math.nan)
