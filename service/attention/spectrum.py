"""The largest eigenvalue of the softmax Jacobian diag(p) − p pᵀ, row by row."""

import torch
from torch import Tensor

_STEPS = 60


def largest_eigenvalue(largest: Tensor, rest: Tensor, others: Tensor) -> Tensor:
    """Exact λmax of diag(p) − p pᵀ.

    By the secular equation (Golub 1973, Some modified matrix eigenvalue problems) λmax is the root
    of Σ p²/(p − x) = 1 between the two largest weights, or the largest weight where they tie. With
    the largest apart, P²/(P − x) − 1 = (x − P(1 − P))/(P − x), which keeps its digits when P is
    nearly 1.

    Args:
        largest: P, the largest weight of each row (…), float64.
        rest: 1 − P, given precisely.
        others: the other weights (…, keys), 0 in the place of the largest.

    Returns:
        λmax (…), found by bisection to the last digits of float64.
    """
    second = others.amax(-1)
    trace = rest * (1 + largest) - others.square().sum(-1)
    low, high = second, torch.minimum(largest, trace).clamp(max=0.5)
    squares = others.square()
    product = largest * rest
    for _ in range(_STEPS):
        middle = (low + high) / 2
        distance = middle.unsqueeze(-1) - others
        pull = torch.where(squares > 0, squares / distance, 0.0).sum(-1)
        above = (middle - product) / (largest - middle) > pull
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    root = (low + high) / 2
    return torch.where(second >= largest, largest, torch.where(rest > 0, root, 0.0))
