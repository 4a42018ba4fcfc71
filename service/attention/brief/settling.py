"""From sums about the references to statistics, for the rows of several units at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from service.attention.brief.sums import NORMS, PLAIN, SUMS, WHOLE, Sum, Taken
from service.attention.rows import underflow_gap
from service.attention.statistics import BLOCK_COLUMNS

# Beyond them the sums about r have lost more than a digit to cancellation, or leave float32.
_MOST_CANCELLED = 32.0
_FURTHEST_ABOVE = 10.0
_FURTHEST_SECOND = {torch.float32: -20.0, torch.float64: -200.0}


@dataclass(frozen=True, slots=True)
class Settled:
    """Of the rows of several units, one after the other.

    `columns` (statistic, row) in the order of `RowStatistics`; `raised` is exp(maximum − r), by
    which the outputs exceed those referred to the maximum; `sound` which rows' figures hold.
    """

    columns: Tensor
    raised: Tensor
    sound: Tensor


@dataclass(frozen=True, slots=True)
class _Extremes:
    """Of each row: the reference and the base of its sums, its extremes, and whether it is tied."""

    reference: Tensor
    base: Tensor
    maximum: Tensor
    second: Tensor
    minimum: Tensor
    argmax: Tensor
    raised: Tensor
    tied: Tensor


def settle(taken: Sequence[Taken], ranges: Sequence[slice], dtype: torch.dtype) -> Settled:
    """Refer the sums over these ranges of keys, taken in `dtype`, to the rows' maxima."""
    found = torch.cat([each.sums for each in taken], -1).double()
    found[: Sum.ARGMAX].mul_(2)
    found[NORMS].square_()
    sums = found[SUMS].mul_(torch.tensor(WHOLE, dtype=torch.float64).view(-1, 1, 1))
    reference, base = found[Sum.REFERENCE, 0], found[Sum.BASE, 0]
    maxima, minima = found[Sum.MAXIMUM], found[Sum.MINIMUM]
    # What stood in the maxima's places goes, and they come.
    bottom, top = minima - reference, maxima - reference
    sums.sub_(torch.stack([*_shares(minima - base), *_weighted_shares(bottom, bottom.exp())]))
    sums[:PLAIN].add_(torch.stack(_shares(maxima - base)))
    raised, second, argmax = top.exp(), found[Sum.SECOND], found[Sum.ARGMAX]
    tied = (second >= maxima).any(0)
    if len(ranges) > 1:
        highest, first = maxima.max(0, keepdim=True)
        argmax = (argmax + _starts(ranges)).gather(0, first)
        lost = torch.ones_like(maxima).scatter_(0, first, 0.0)
        second = torch.where(lost > 0, maxima, second).amax(0, keepdim=True)
        sums[PLAIN:].addcmul_(torch.stack(_weighted_shares(top, raised)), lost)
        maxima, raised, sums = highest, raised.gather(0, first), sums.sum(1, keepdim=True)
    row = _Extremes(
        reference, base, maxima[0], second[0], minima.amin(0), argmax[0], raised[0], tied
    )
    return _referred(row, sums[:, 0], keys=float(ranges[-1].stop), dtype=dtype)


def _starts(ranges: Sequence[slice]) -> Tensor:
    return torch.tensor([keys.start for keys in ranges], dtype=torch.float64).unsqueeze(-1)


def _referred(row: _Extremes, sums: Tensor, *, keys: float, dtype: torch.dtype) -> Settled:
    """The sums about the reference, referred to the maximum; and whether they can be."""
    total, plain, weighted_squares, tail2, tail3, weighted, tail = sums.unbind()
    above = row.maximum - row.reference
    weight = tail + row.raised
    own = row.raised * above
    mean_gap = (weighted + own) / weight
    about = torch.addcmul(weighted_squares, own, above)
    spread = about - weight * mean_gap.square()
    mean = total / keys
    squares = plain - keys * mean.square()
    # A comparison with NaN is false: what is not finite is not sound.
    sound = row.maximum - row.minimum < underflow_gap(dtype)
    sound &= ~row.tied
    sound &= above <= _FURTHEST_ABOVE
    sound &= row.second - row.reference >= _FURTHEST_SECOND[dtype]
    sound &= about <= _MOST_CANCELLED * spread
    sound &= plain <= _MOST_CANCELLED * squares
    down = 1 / row.raised
    columns = torch.zeros(BLOCK_COLUMNS, len(row.maximum), dtype=torch.float64)
    columns[0] = keys
    figures = [row.maximum, row.second, row.minimum, row.argmax, tail * down]
    figures += [tail2 * down.square(), tail3 * down.square() * down]
    figures += [torch.addcmul(weighted, above, tail, value=-1) * down, spread * down]
    figures += [row.base + mean, squares]
    torch.stack(figures, out=columns[1 : 1 + len(figures)])
    return Settled(columns, row.raised, sound)


def _shares(gaps: Tensor) -> list[Tensor]:
    """What logits of these gaps to the base add to the plain sums."""
    return [gaps, gaps.square()]


def _weighted_shares(gaps: Tensor, exponentials: Tensor) -> list[Tensor]:
    """What logits of these gaps to the reference add to the others."""
    weighted, squares = exponentials * gaps, exponentials.square()
    return [weighted * gaps, squares, squares * exponentials, weighted, exponentials]
