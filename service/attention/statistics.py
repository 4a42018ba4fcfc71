"""Sufficient statistics of the rows of a softmax, mergeable over disjoint ranges of keys.

With s a row's logits over its visible keys, m their maximum, a its index (the lowest on ties) and
u = exp(s − m), everything but the argmax itself is summed: 1 − Σp² and its kin lose every digit
in float32 when the argmax (u = 1) is in the sums and the row is nearly one-hot, and keep them all
when it is apart. Merging is the online softmax (Milakov and Gimelshein 2018, arXiv 1805.02867)
carried to every sum; means and squares merge as in Chan, Golub and LeVeque (1983).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

NEGATIVE_INFINITY = float("-inf")


@dataclass(slots=True)
class RowStatistics:
    """One float64 tensor of the rows' shape for each statistic.

    `visible` n; `maximum` m; `second` largest logit; `minimum`; `argmax` (−1 without a key);
    `tail`, `tail2`, `tail3` Σ_{j≠a} u, u², u³; `gap1` Σ u·(s−m);
    `spread` Σ u·(s−m−ḡ)² over all keys about their mean gap ḡ = gap1/(1 + tail), since the plain
    second moment cancels on flat rows;
    `mean` and `squares` of the logits, Σ (s − mean)²; `overflowed` infinite or NaN logits;
    `underflowed` visible keys whose weight flushes to 0; `score_mean`, `score_squares`,
    `score_max_abs` the same of the scores, where collected.
    """

    visible: Tensor
    maximum: Tensor
    second: Tensor
    minimum: Tensor
    argmax: Tensor
    tail: Tensor
    tail2: Tensor
    tail3: Tensor
    gap1: Tensor
    spread: Tensor
    mean: Tensor
    squares: Tensor
    overflowed: Tensor
    underflowed: Tensor
    score_mean: Tensor
    score_squares: Tensor
    score_max_abs: Tensor

    @classmethod
    def empty(cls, *shape: int, device: torch.device | None = None) -> "RowStatistics":
        """The neutral element: rows that have seen no key."""
        initial = {"maximum": NEGATIVE_INFINITY, "second": NEGATIVE_INFINITY, "argmax": -1.0}
        initial["minimum"] = float("inf")
        names = [f.name for f in fields(cls)]
        stacked = torch.zeros((len(names), *shape), dtype=torch.float64, device=device)
        for row, name in zip(stacked, names, strict=True):
            row.fill_(initial.get(name, 0.0))
        return cls(*stacked.unbind())

    def to(self, device: str) -> "RowStatistics":
        """The same on another device."""
        return RowStatistics(*self.stack().to(device).unbind())

    def stack(self) -> Tensor:
        """All statistics in one tensor (statistic, …), in the order of the fields."""
        return torch.stack([getattr(self, f.name) for f in fields(self)])

    @staticmethod
    def merge(parts: Sequence["RowStatistics"]) -> "RowStatistics":
        """Statistics of the union of disjoint key ranges, those with lower keys first."""
        if len(parts) == 1:
            return parts[0]
        part = RowStatistics(*torch.stack([p.stack() for p in parts], dim=1).unbind())
        maximum = part.maximum.amax(0)
        leads = part.maximum == maximum
        wins = leads & (leads.cumsum(0) == 1)
        occupied = part.maximum != NEGATIVE_INFINITY
        # An empty range has no maximum to shift from: −∞ − −∞ would be NaN.
        # Past −1e3 the factor is 0 in any case, and the square of the shift could leave float64.
        shift = torch.where(occupied, (part.maximum - maximum).clamp(min=-1e3), 0.0)
        factor = torch.where(occupied, shift.exp(), 0.0)
        # A loser's own maximum, kept out of its sums, joins them; the winner's stays out.
        own = (occupied & ~wins).double()
        count = part.tail + 1.0
        gap1 = part.gap1 + shift * count
        weight = factor * count
        mean_gap = (factor * gap1).sum(0) / weight.sum(0).clamp(min=1.0)
        apart = (gap1 / count - mean_gap).square()
        mean, squares = _pool(part.visible, part.mean, part.squares)
        score_mean, score_squares = _pool(part.visible, part.score_mean, part.score_squares)
        return RowStatistics(
            visible=part.visible.sum(0),
            maximum=maximum,
            second=torch.where(wins, part.second, part.maximum).amax(0),
            minimum=part.minimum.amin(0),
            argmax=torch.where(wins, part.argmax, 0.0).sum(0),
            tail=(factor * (part.tail + own)).sum(0),
            tail2=(factor**2 * (part.tail2 + own)).sum(0),
            tail3=(factor**3 * (part.tail3 + own)).sum(0),
            gap1=(factor * gap1).sum(0),
            spread=(factor * part.spread + weight * apart).sum(0),
            mean=mean,
            squares=squares,
            overflowed=part.overflowed.sum(0),
            underflowed=part.underflowed.sum(0),
            score_mean=score_mean,
            score_squares=score_squares,
            score_max_abs=part.score_max_abs.amax(0),
        )


def _pool(count: Tensor, mean: Tensor, squares: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and squares about it of several samples, along the first axis."""
    pooled = (count * mean).sum(0) / count.sum(0).clamp(min=1.0)
    return pooled, (squares + count * (mean - pooled).square()).sum(0)
