"""The statistics of one block of rows, and the exponentials that weigh the values.

Two ways to the same figures. `fast` hides keys by arithmetic (a masked fill costs 25 times an
addition, measured); it is right while all logits are finite and their spread is moderate. `exact`
is for everything else: NaN, infinities, and spreads whose squares leave float32.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from service.attention.statistics import NEGATIVE_INFINITY, OVERFLOWED, RowStatistics

# Up to it a hidden key, marked by lowest − 1, stays below the lowest visible one in float32.
_LARGEST = 1e7
_EXACT_INTEGERS = 2**24
_FAR_BELOW = {torch.float32: -1e30, torch.float64: -1e300}


@dataclass(slots=True)
class Block:
    """Columns (column, heads, queries), exponentials (heads, queries, keys) of 1 at the argmax."""

    columns: Tensor
    exponentials: Tensor

    @property
    def statistics(self) -> RowStatistics:
        """The columns, referred to the logits themselves."""
        return RowStatistics.of(self.columns.double())

    @property
    def maximum(self) -> Tensor:
        """The row's maximum (heads, queries), −∞ without a usable key."""
        count, maximum = self.columns[:2].double()
        return torch.where(count > 0, maximum, NEGATIVE_INFINITY)


@dataclass(slots=True)
class _Gaps:
    """Logits less their row's maximum, hidden ones below all visible, and the rows' extremes.

    Referred to the maximum, the largest logits keep every digit (Sterbenz 1974). `keep` is 1 for
    visible and 0 for hidden keys, or None where all are visible; `mean` and `lowest` are of the
    gaps, `norm` is sqrt(Σ (gap − mean)²).
    """

    gaps: Tensor
    keep: Tensor | None
    count: Tensor
    maximum: Tensor
    argmax: Tensor
    mean: Tensor
    norm: Tensor
    lowest: Tensor


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
    if keep is not None and not _mark_hidden(logits, keep):
        return None
    maximum = logits.amax(-1)
    gaps, centred = logits.sub_(maximum.unsqueeze(-1)), spare[1]
    argmax = _first_zero(gaps, spare[1])
    seen = gaps if keep is None else torch.mul(gaps, keep, out=centred)
    lowest, mean = seen.amin(-1), seen.sum(-1)
    mean = mean / count.clamp(min=1) if keep is not None else mean.div_(gaps.shape[-1])
    torch.sub(seen, mean.unsqueeze(-1), out=centred)
    if keep is not None:
        centred.mul_(keep)
    norm = torch.linalg.vector_norm(centred, dim=-1)
    if not float(norm.max()) < _LARGEST:
        return None
    row = _Gaps(gaps, keep, count, maximum, argmax, mean, norm, lowest)
    return _sum_tail(row, first_key, *spare, underflow_gap(logits.dtype))


def _first_zero(gaps: Tensor, spare: Tensor) -> Tensor:
    """Where each row has its first 0: the argmax, at half the cost of `max` with indices.

    Measured: 1.2 against 2.7 cycles an element. Rows with NaN get an index past the end.
    """
    keys = gaps.shape[-1]
    if keys > _EXACT_INTEGERS:
        return gaps.argmax(-1)
    torch.eq(gaps, 0.0, out=spare)
    spare.mul_(torch.arange(keys, 0, -1, dtype=gaps.dtype, device=gaps.device))
    return keys - spare.amax(-1).long()


def _mark_hidden(logits: Tensor, keep: Tensor) -> bool:
    """Put hidden keys below all visible ones; False where that takes more digits than there are."""
    logits.mul_(keep)
    below = 1 - logits.amin(-1).clamp(max=0)
    if not float(below.max()) < _LARGEST:
        return False
    logits.addcmul_(keep - 1, below.unsqueeze(-1))
    return True


def _keep(logits: Tensor, visible: Tensor | None) -> tuple[Tensor | None, Tensor]:
    rows = logits.shape[:-1]
    if visible is None:
        return None, logits.new_full(rows, logits.shape[-1])
    keep = visible.to(logits.dtype)
    return keep, keep.sum(-1).expand(rows)


def _sum_tail(
    row: _Gaps, first_key: int, exponentials: Tensor, product: Tensor, limit: float
) -> Block:
    """The sums over all keys but the argmax; `row.gaps` is overwritten."""
    gaps, at = row.gaps, row.argmax.unsqueeze(-1)
    underflowed = _exponentiate(row, limit, exponentials)
    exponentials.scatter_(-1, at, 0.0)
    gaps.scatter_(-1, at, _FAR_BELOW[gaps.dtype])
    second = gaps.amax(-1)
    tail = exponentials.sum(-1)
    # Not by `vecdot`, which multiplies into fresh memory: mapped page by page, that took a quarter
    # of the pass.
    gap1 = torch.mul(exponentials, gaps, out=product).sum(-1)
    mean_gap = gap1 / (1 + tail)
    gaps.sub_(mean_gap.unsqueeze(-1))
    torch.mul(exponentials, gaps, out=product)
    spread = product.mul_(gaps).sum(-1) + mean_gap.square()
    # u² and u³ leave float32 at a gap of 44 and 29, so they are taken relative to the second key.
    torch.mul(exponentials, second.clamp(min=-80.0).neg().exp().unsqueeze(-1), out=product)
    torch.mul(product, product, out=gaps)
    tail2 = gaps.sum(-1)
    tail3 = gaps.mul_(product).sum(-1)
    if row.keep is None:
        exponentials.scatter_(-1, at, 1.0)
    else:
        exponentials.scatter_(-1, at, (row.count > 0).unsqueeze(-1).to(exponentials.dtype))
    argmax = row.argmax.to(_index_dtype(gaps, first_key)) + first_key
    sums = [row.count, row.maximum, row.mean, row.norm, row.lowest, second]
    sums += [tail, tail2, tail3, gap1, spread, argmax]
    if underflowed is not None:
        sums.append(underflowed)
    return Block(torch.stack(sums), exponentials)


def _index_dtype(gaps: Tensor, first_key: int) -> torch.dtype:
    exact = first_key + gaps.shape[-1] <= _EXACT_INTEGERS
    return gaps.dtype if exact else torch.float64


def _exponentiate(row: _Gaps, limit: float, out: Tensor) -> Tensor | None:
    """Write exp(gaps) with 0 for hidden keys; count the visible ones that flush, if any does."""
    gaps, keep, underflowed = row.gaps, row.keep, None
    if float(gaps.min() if keep is not None else row.lowest.min()) < -limit:
        # The exponential is up to 25 times slower where it underflows (measured), and saturated
        # rows do little else: those keys are clamped first and set to 0 after.
        flushed = gaps < -limit
        torch.exp(torch.clamp(gaps, min=-limit, out=out), out=out)
        out.mul_((~flushed).to(out.dtype))
        underflowed = (flushed if keep is None else flushed & (keep > 0)).sum(-1).to(gaps.dtype)
    else:
        torch.exp(gaps, out=out)
    if keep is not None:
        out.mul_(keep)
    return underflowed


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
    maximum, argmax = torch.where(usable, wide, NEGATIVE_INFINITY).max(-1)
    maximum = torch.where(count > 0, maximum, 0.0)
    gaps = torch.where(usable, wide - maximum.unsqueeze(-1), 0.0)
    mean, lowest = gaps.sum(-1) / count.clamp(min=1), gaps.amin(-1)
    norm = torch.linalg.vector_norm(torch.where(usable, gaps - mean.unsqueeze(-1), 0.0), dim=-1)
    gaps = torch.where(usable, gaps, (lowest - 1).unsqueeze(-1))
    row = _Gaps(gaps, usable.double(), count, maximum, argmax, mean, norm, lowest)
    spare = torch.empty_like(wide), torch.empty_like(wide)
    block = _sum_tail(row, first_key, *spare, underflow_gap(logits.dtype))
    columns = torch.zeros(OVERFLOWED + 1, *count.shape, dtype=torch.float64, device=logits.device)
    columns[: len(block.columns)] = block.columns
    columns[OVERFLOWED] = broken.sum(-1)
    exponentials = torch.where(poisoned, float("nan"), block.exponentials)
    return Block(columns, exponentials.to(logits.dtype))


def moments(scores: Tensor, visible: Tensor | None) -> Tensor:
    """Mean, Σ(s − mean)² and max |s| of the visible scores: (3, heads, queries) in float64."""
    wide = scores.double()
    if visible is None:
        mean = wide.mean(-1)
        squares = (wide - mean.unsqueeze(-1)).square().sum(-1)
        return torch.stack([mean, squares, wide.abs().amax(-1)])
    seen = visible.expand_as(wide)
    wide = torch.where(seen, wide, 0.0)
    mean = wide.sum(-1) / seen.sum(-1).clamp(min=1)
    centred = torch.where(seen, wide - mean.unsqueeze(-1), 0.0)
    return torch.stack([mean, centred.square().sum(-1), wide.abs().amax(-1)])
