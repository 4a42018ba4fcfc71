"""The statistics of one block of rows, and the exponentials that weigh the values.

Two ways to the same figures. `fast` hides keys by arithmetic (a masked fill costs 25 times an
addition, measured); it is right while all logits are finite and their spread is moderate. `exact`
is for everything else: NaN, infinities, and spreads whose squares leave float32.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from service.attention.statistics import NEGATIVE_INFINITY, RowStatistics

# Below it a hidden key, marked by lowest − 1, stays distinct from the lowest visible one in float32.
_NORM_LIMIT = 1e7
# float32 rounds what lies so far from the mean by 6e-6 at most, and weights with it.
_NEAR_MEAN = 100.0
_FAR_BELOW = {torch.float32: -1e30, torch.float64: -1e300}


@dataclass(slots=True)
class Block:
    """Statistics (heads, queries) and exponentials (heads, queries, keys), the argmax's being 1."""

    statistics: RowStatistics
    exponentials: Tensor


@dataclass(slots=True)
class _Centred:
    """Logits about a centre per row, hidden ones below all visible, and what is known of the rows.

    `keep` is 1 for visible and 0 for hidden keys, or None where all are visible; `mean`, `norm`,
    `lowest` and `highest` are about the centre too.
    """

    logits: Tensor
    keep: Tensor | None
    count: Tensor
    centre: Tensor
    mean: Tensor
    norm: Tensor
    lowest: Tensor
    highest: Tensor
    argmax: Tensor


def underflow_gap(dtype: torch.dtype) -> float:
    """Logits this far below the maximum have weights that flush: −ln(smallest normal)."""
    return -math.log(torch.finfo(dtype).tiny)


def fast(
    logits: Tensor, visible: Tensor | None, first_key: int, spare: tuple[Tensor, Tensor]
) -> Block | None:
    """Statistics of finite logits; None where they are not finite, spread or stand out too far.

    Args:
        logits: (heads, queries, keys), overwritten.
        visible: boolean, broadcastable to it, or None = all.
        first_key: index of the first key of the block.
        spare: two buffers of the same shape; the first holds the exponentials of the result.
    """
    keep, count = _keep(logits, visible)
    if keep is not None:
        logits.mul_(keep)
    centre = logits.sum(-1) / count.clamp(min=1)
    logits.sub_(centre.unsqueeze(-1))
    if keep is not None:
        logits.mul_(keep)
    # The centre is the mean but for its own rounding, 5e-4 at a common shift of 1e4.
    mean = logits.sum(-1) / count.clamp(min=1)
    norm = torch.linalg.vector_norm(logits, dim=-1)
    if not float(norm.max()) < _NORM_LIMIT:
        return None
    # Centred, a row's minimum is at most 0 and hidden keys are 0, so they need not be marked yet.
    lowest = logits.amin(-1)
    if keep is not None:
        logits.addcmul_(keep - 1, (1 - lowest).unsqueeze(-1))
    highest, argmax = logits.max(-1)
    if _blurred(centre, highest):
        return None
    row = _Centred(logits, keep, count, centre, mean, norm, lowest, highest, argmax)
    return _sum_tail(row, first_key, *spare, underflow_gap(logits.dtype))


def _blurred(centre: Tensor, highest: Tensor) -> bool:
    """Whether centring rounds the largest logits of a row by more than they are rounded already.

    A bias of −1e4 on half the keys moves the mean to −5e3, about which float32 steps by 5e-4.
    """
    far = (highest > _NEAR_MEAN) & (highest > 4 * (centre + highest).abs())
    return bool(far.any())


def _keep(logits: Tensor, visible: Tensor | None) -> tuple[Tensor | None, Tensor]:
    rows = logits.shape[:-1]
    if visible is None:
        return None, logits.new_full(rows, logits.shape[-1])
    keep = visible.to(logits.dtype)
    return keep, keep.sum(-1).expand(rows)


def _sum_tail(
    row: _Centred, first_key: int, exponentials: Tensor, product: Tensor, limit: float
) -> Block:
    """The sums over all keys but the argmax; `row.logits` is overwritten."""
    gaps = row.logits.sub_(row.highest.unsqueeze(-1))
    underflowed = _exponentiate(row, limit, exponentials)
    at = row.argmax.unsqueeze(-1)
    exponentials.scatter_(-1, at, 0.0)
    gaps.scatter_(-1, at, _FAR_BELOW[gaps.dtype])
    second = gaps.amax(-1)
    tail = exponentials.sum(-1)
    torch.mul(exponentials, gaps, out=product)
    gap1, gap2 = product.sum(-1), torch.linalg.vecdot(product, gaps)
    # u² and u³ leave float32 at a gap of 44 and 29, so they are taken relative to the second key.
    torch.mul(exponentials, second.clamp(min=-80.0).neg().exp().unsqueeze(-1), out=product)
    torch.mul(product, product, out=gaps)
    tail2, tail3 = gaps.sum(-1), torch.linalg.vecdot(gaps, product)
    exponentials.scatter_(-1, at, (row.count > 0).unsqueeze(-1).to(exponentials.dtype))
    sums = (row.count, row.centre, row.mean, row.norm, row.lowest, row.highest, second)
    tails = (tail, tail2, tail3, gap1, gap2)
    stacked = torch.stack([*sums, *tails]).double()
    statistics = _statistics(stacked, row.argmax.double() + first_key, underflowed)
    return Block(statistics, exponentials)


def _exponentiate(row: _Centred, limit: float, out: Tensor) -> Tensor | None:
    """Write exp(gaps) with 0 for hidden keys; count the visible ones that flush, if any does."""
    gaps, keep, underflowed = row.logits, row.keep, None
    if float((row.lowest - row.highest).min()) - 1 < -limit:
        # The exponential is up to 25 times slower where it underflows (measured), and saturated
        # rows do little else: those keys are clamped first and set to 0 after.
        flushed = gaps < -limit
        torch.exp(torch.clamp(gaps, min=-limit, out=out), out=out)
        out.mul_((~flushed).to(out.dtype))
        underflowed = (flushed if keep is None else flushed & (keep > 0)).sum(-1).double()
    else:
        torch.exp(gaps, out=out)
    if keep is not None:
        out.mul_(keep)
    return underflowed


def _statistics(stacked: Tensor, argmax: Tensor, underflowed: Tensor | None) -> RowStatistics:
    """Referred to the logits themselves, and neutral for rows without a visible key."""
    count, centre, mean, norm, lowest, highest, second, *tails = stacked.unbind()
    tail, tail2, tail3, gap1, gap2 = tails
    some = count > 0
    relative = second.clamp(min=-80.0).exp()
    maximum = centre + highest
    zeros = torch.zeros_like(centre)
    return RowStatistics(
        visible=count,
        maximum=torch.where(some, maximum, NEGATIVE_INFINITY),
        second=torch.where(count > 1, maximum + second, NEGATIVE_INFINITY),
        minimum=torch.where(some, centre + lowest, float("inf")),
        argmax=torch.where(some, argmax, -1.0),
        tail=tail,
        tail2=tail2 * relative**2,
        tail3=tail3 * relative**3,
        gap1=gap1,
        gap2=gap2,
        mean=centre + mean,
        squares=(norm.square() - count * mean.square()).clamp(min=0),
        overflowed=zeros,
        underflowed=zeros if underflowed is None else underflowed,
        score_mean=zeros,
        score_squares=zeros,
        score_max_abs=zeros,
    )


def exact(logits: Tensor, visible: Tensor | None, first_key: int) -> Block:
    """Statistics of any logits, in float64, over the finite visible ones.

    Infinite and NaN logits that are visible are counted in `overflowed`; a row that holds +∞ or
    NaN has NaN exponentials, as softmax itself would give.
    """
    wide = logits.double()
    seen = torch.ones_like(wide, dtype=torch.bool) if visible is None else visible.expand_as(wide)
    broken = seen & ~torch.isfinite(wide)
    poisoned = (broken & (wide != NEGATIVE_INFINITY)).any(-1, keepdim=True)
    usable = seen & ~broken
    count = usable.sum(-1).double()
    # About the maximum, not the mean: entries like finfo.min would take all digits from the rest.
    highest, argmax = torch.where(usable, wide, NEGATIVE_INFINITY).max(-1)
    highest = torch.where(count > 0, highest, 0.0)
    gaps = torch.where(usable, wide - highest.unsqueeze(-1), 0.0)
    mean, lowest = gaps.sum(-1) / count.clamp(min=1), gaps.amin(-1)
    norm = torch.linalg.vector_norm(gaps, dim=-1)
    gaps = torch.where(usable, gaps, (lowest - 1).unsqueeze(-1))
    zeros = torch.zeros_like(mean)
    row = _Centred(gaps, usable.double(), count, highest, mean, norm, lowest, zeros, argmax)
    spare = torch.empty_like(wide), torch.empty_like(wide)
    block = _sum_tail(row, first_key, *spare, underflow_gap(logits.dtype))
    statistics, overflowed = block.statistics, broken.sum(-1).double()
    statistics.overflowed, statistics.visible = overflowed, count + overflowed
    exponentials = torch.where(poisoned, float("nan"), block.exponentials)
    return Block(statistics, exponentials.to(logits.dtype))


def moments(scores: Tensor, visible: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, Σ(s − mean)² and max |s| of the visible scores of each row, in float64."""
    wide = scores.double()
    if visible is None:
        mean = wide.mean(-1)
        return mean, (wide - mean.unsqueeze(-1)).square().sum(-1), wide.abs().amax(-1)
    seen = visible.expand_as(wide)
    wide = torch.where(seen, wide, 0.0)
    mean = wide.sum(-1) / seen.sum(-1).clamp(min=1)
    centred = torch.where(seen, wide - mean.unsqueeze(-1), 0.0)
    return mean, centred.square().sum(-1), wide.abs().amax(-1)
