"""Exact expectations of softmax statistics over finitely many iid normal logits.

The logits of a row are σ·Z_1 … σ·Z_n with Z iid N(0, 1); a mean common to the row changes nothing.
With X = e^{σZ} and φ(t) = E e^{−tX}, the denominator's power is an integral over t, which factors
over the keys. With t = e^y, where w = t·X,

    E Σp² = n ∫ E[w² e^{−w}] φ^{n−1} dy            from 1/Z² = ∫ t e^{−tZ} dt
    E H   = n ∫ E[w e^{−w}(−γ − ln w)] φ^{n−1} dy   from ln(Z)/Z = ∫ (−γ − ln t) e^{−tZ} dt

with γ Euler's constant. The second avoids E H = E ln Z − σ²(1 − E Σp²), whose terms cancel to the
last digit where the entropy is small and σ large.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from service.theory.smooth_mean import mean_of_smooth

MAX_SIGMA = 1e4
MAX_KEYS = 1e9

_EULER_GAMMA = 0.5772156649015329
# Integrands are analytic in the strip |Im y| < π/2, so the trapezoid's error is about e^{−π²/step}:
# 7e-18 here.
_STEP = 0.25
# e^{−_TAIL}·MAX_KEYS is what the grids cut off: 1e-12.
_TAIL = math.log(MAX_KEYS) + 28
_CHUNK = 4096
_FEW_ROWS = 16


def expected_sum_of_squares(sigma: Tensor, n: Tensor) -> Tensor:
    """E Σ_j p_j², the inverse participation ratio of a softmax over n iid N(0, σ²) logits.

    1 − E Σp² is the expected trace of the softmax Jacobian. sigma and n broadcast; the answer has
    their common shape, in float64 on the CPU. Range [1/n, 1]; 1/n at σ = 0, 1 at n = 1.

    Valid for 0 ≤ σ ≤ 1e4 and n = 1 or 2 ≤ n ≤ 1e9 (n need not be whole), NaN elsewhere. Relative
    error ≤ 1e-11 there. Costs about a millisecond per distinct σ not seen lately; for very many
    of them see `mean_over_rows`.

    Source: the module's first integral.
    """
    return _expectations(sigma, n)[0]


def expected_entropy(sigma: Tensor, n: Tensor) -> Tensor:
    """E H, in nats, the entropy −Σ p_j ln p_j of a softmax over n iid N(0, σ²) logits.

    sigma and n broadcast; the answer has their common shape, in float64 on the CPU. Range
    [0, ln n]; ln n at σ = 0, 0 at n = 1.

    Validity, error and cost as for `expected_sum_of_squares`.

    Source: the module's second integral; equal to E ln Z − σ²(1 − E Σp²) by Stein's lemma.
    """
    return _expectations(sigma, n)[1]


def mean_over_rows(sigma: Tensor, n: Tensor) -> tuple[float, float]:
    """(mean of E H in nats, mean of E Σp²) over rows of n_i iid N(0, σ_i²) logits.

    sigma and n broadcast to the rows, of any shape. For normal queries and keys of mean 0 a row's σ
    is |scale|·σ_k·‖q‖. Valid for at least one row, 0 ≤ σ ≤ 1e4 and 2 ≤ n ≤ 1e9 in all of them;
    (NaN, NaN) otherwise.

    Up to 16 rows are evaluated one by one; more are interpolated in ln(1 + σ) and ln n over their
    range, relative error ≤ 1e-5 up to σ = 60 (exact in an axis of one value; 3e-5 was the worst
    found with σ to 1000). A million rows take 0.1 s on one core, 0.2 s if σ spans 0 to 60.
    """
    sigma, n = _broadcast(sigma, n)
    sigma, n = sigma.flatten(), n.flatten()
    if not len(n) or not bool((_is_valid(sigma, n) & (n >= 2)).all()):
        return math.nan, math.nan
    if len(n) <= _FEW_ROWS:
        squares, entropy = (values.mean() for values in _expectations(sigma, n))
    else:
        squares, entropy = mean_of_smooth(on_grid, sigma.log1p(), n.log())
    return float(entropy), float(squares)


def on_grid(log_sigma: Tensor, log_n: Tensor) -> Tensor:
    """(E Σp², E H) at all pairs of ln(1 + σ) and ln n, shape (2, len(σ), len(n))."""
    # Rounding may step out of the valid range: expm1(log1p(1e4)) does.
    sigma, n = log_sigma.expm1().clamp(0, MAX_SIGMA), log_n.exp().clamp(2, MAX_KEYS)
    return torch.stack(_expectations(sigma[:, None], n))


def _expectations(sigma: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
    """(E Σp², E H), sharing φ among all n of one σ."""
    sigma, n = _broadcast(sigma, n)
    answer = torch.full((2, sigma.numel()), math.nan, dtype=torch.float64)
    flat_sigma, flat_n = sigma.flatten(), n.flatten()
    valid = _is_valid(flat_sigma, flat_n).nonzero().squeeze(1)
    distinct, group, sizes = torch.unique(
        flat_sigma[valid], return_inverse=True, return_counts=True
    )
    rows_by_sigma = torch.split(valid[group.argsort(stable=True)], sizes.tolist())
    for value, rows in zip(distinct.tolist(), rows_by_sigma, strict=True):
        for chunk in torch.split(rows, _CHUNK):
            answer[:, chunk] = _at_one_sigma(value, flat_n[chunk])
    return answer[0].view(sigma.shape), answer[1].view(sigma.shape)


def _broadcast(sigma: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
    sigma, n = (x.detach().to("cpu", torch.float64) for x in (sigma, n))
    shape = (sigma + n).shape  # torch's own function for it is not typed
    return sigma.expand(shape), n.expand(shape)


def _is_valid(sigma: Tensor, n: Tensor) -> Tensor:
    many = (n >= 2) & (n <= MAX_KEYS)
    return (sigma >= 0) & (sigma <= MAX_SIGMA) & (many | (n == 1))


def _at_one_sigma(sigma: float, n: Tensor) -> Tensor:
    """Shape (2, len(n)): E Σp² and E H."""
    if sigma == 0:
        return torch.stack((1 / n, n.log()))
    table = _table(sigma)
    others = torch.exp(torch.outer(n - 1, table.log_phi))
    values = n * torch.stack((others @ table.squares, others @ table.entropy))
    # Rounding may step 1e-14 over the bounds. At n = 1 they coincide and are the value, whose
    # integral would need a longer grid.
    values[0] = torch.minimum(torch.maximum(values[0], 1 / n), torch.ones_like(n))
    values[1] = torch.minimum(values[1].clamp(min=0), n.log())
    return values


class _Table(NamedTuple):
    """What one σ contributes at the grid points y = ln t, the step included."""

    log_phi: Tensor
    squares: Tensor
    entropy: Tensor


@lru_cache(maxsize=1024)  # about 8 KiB each
def _table(sigma: float) -> _Table:
    """1 − φ, E[w² e^{−w}] and E[w e^{−w}(−γ − ln w)] for w = e^{y + σZ}."""
    start, stop = _support(sigma)
    # Far above σ = 6 everything is a smooth function of y/σ, and a finer grid would show the same.
    step = _STEP * max(1, math.floor(sigma / 6))
    count = math.ceil((stop - start) / step)
    rule = _over_normal if sigma < 1 else _over_kernel
    one_minus_phi, squares, entropy = rule(sigma, start, step, count)
    # Towards the grid's end 1 − φ rounds to 1, where φ^{n−1} no longer counts.
    log_phi = torch.log1p(-one_minus_phi.clamp(max=1 - 1e-16))
    return _Table(log_phi, squares * step, entropy * step)


def _support(sigma: float) -> tuple[float, float]:
    """The y outside which the integrands are negligible, for any number of keys.

    Below: 1 − φ ≤ E w^λ = e^{λy + λ²σ²/2} for any λ in [0, 1], which at the best λ reaches
    e^{−_TAIL} at the start returned. Above: φ and the kernels' means fall off as normal tails.
    """
    normal_tail = sigma**2 >= 2 * _TAIL
    start = -sigma * math.sqrt(2 * _TAIL) if normal_tail else -(_TAIL + sigma**2 / 2)
    return start, 6.5 * sigma + 4.5


def _over_normal(sigma: float, start: float, step: float, count: int) -> tuple[Tensor, ...]:
    """The three expectations by the trapezoid over z, for σ < 1, where the normal is narrow."""
    z = torch.arange(-9, 11 + _STEP, _STEP, dtype=torch.float64)  # e^{2σz} moves the peak to 2σ
    weight = torch.exp(-z * z / 2) * (_STEP / math.sqrt(2 * math.pi))
    y = start + step * torch.arange(count, dtype=torch.float64)
    u = y[:, None] + sigma * z
    w = u.exp()
    squares, entropy = _kernels(u)
    return -torch.expm1(-w) @ weight, squares @ weight, entropy @ weight


def _over_kernel(sigma: float, start: float, step: float, count: int) -> tuple[Tensor, ...]:
    """The three expectations by the trapezoid over u = y + σz, for σ ≥ 1.

    1 − e^{−w} is the distribution function of a variable with density e^{u − e^u}, so that
    1 − φ(y) = ∫ e^{u − e^u} Φ((y − u)/σ) du, exact to the last digit in its tail.
    """
    u = torch.arange(-_TAIL, 4.5, _STEP, dtype=torch.float64)
    # y − u takes few distinct values on grids whose steps are multiples.
    stride = round(step / _STEP)
    shift = torch.arange(stride * (count - 1) + len(u), dtype=torch.float64)
    x = (start - u[-1] + _STEP * shift) / sigma
    below = (torch.special.erfc(-x * math.sqrt(0.5)) / 2).unfold(0, len(u), stride)
    density = (torch.exp(-x * x / 2) / (sigma * math.sqrt(2 * math.pi))).unfold(0, len(u), stride)
    u = u.flip(0)
    squares, entropy = _kernels(u)
    gumbel = torch.exp(u - u.exp())
    return below @ gumbel * _STEP, density @ squares * _STEP, density @ entropy * _STEP


def _kernels(u: Tensor) -> tuple[Tensor, Tensor]:
    """w² e^{−w} and w e^{−w}(−γ − ln w) at w = e^u."""
    gumbel = torch.exp(u - u.exp())
    return gumbel * u.exp(), gumbel * (-_EULER_GAMMA - u)
