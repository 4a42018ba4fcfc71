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
BLOCK_COLUMNS = 17
"""What `RowStatistics.of` takes, in its order; a block may leave out the last ones, which are 0."""
MAXIMUM = 1
TAIL = 6
OVERFLOWED = 13
SCORES = slice(14, 17)


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

    @classmethod
    def of(cls, columns: Tensor) -> "RowStatistics":
        """From the columns of blocks (column, …) in float64, which refer to the row's maximum.

        visible, maximum; mean of the gaps s − m and the norm of their deviations from it; lowest
        and second gap; tail; tail2 and tail3 of exp(s − second); gap1; spread; argmax;
        underflowed; overflowed; and the three of the scores.
        """
        given = list(columns.unbind())
        zeros = torch.zeros_like(given[0])
        given += [zeros] * (BLOCK_COLUMNS - len(given))
        visible, maximum, mean, norm, lowest, second, tail, tail2, tail3, gap1, spread = given[:11]
        argmax, underflowed, overflowed, *scores = given[11:]
        # Overflowed logits are seen, and are in no other figure.
        relative = second.clamp(min=-80.0).exp()
        found = cls(
            visible=visible + overflowed,
            maximum=maximum,
            second=maximum + second,
            minimum=maximum + lowest,
            argmax=argmax,
            tail=tail,
            tail2=tail2 * relative**2,
            tail3=tail3 * relative**3,
            gap1=gap1,
            spread=spread,
            mean=maximum + mean,
            squares=norm.square(),
            overflowed=overflowed,
            underflowed=underflowed,
            score_mean=scores[0],
            score_squares=scores[1],
            score_max_abs=scores[2],
        )
        if float(visible.amin() if visible.numel() else 2) < 2:
            found._neutralise(visible)
        return found

    def _neutralise(self, usable: Tensor) -> None:
        """Make rows without a usable key the neutral element, and give rows of one no second."""
        some = usable > 0
        self.second = torch.where(usable > 1, self.second, NEGATIVE_INFINITY)
        self.maximum = torch.where(some, self.maximum, NEGATIVE_INFINITY)
        self.minimum = torch.where(some, self.minimum, float("inf"))
        self.argmax = torch.where(some, self.argmax, -1.0)
        self.mean = torch.where(some, self.mean, 0.0)

    def to(self, device: str) -> "RowStatistics":
        """The same on another device."""
        return RowStatistics(*self.stack().to(device).unbind())

    def stack(self) -> Tensor:
        """All statistics in one tensor (statistic, …), in the order of the fields."""
        return torch.stack([getattr(self, f.name) for f in fields(self)])

    @staticmethod
    def merge_blocks(parts: Sequence[Tensor]) -> "RowStatistics":
        """Statistics of the union of blocks, given by their columns in the order of keys."""
        first = parts[0]
        columns = first.new_zeros(BLOCK_COLUMNS, len(parts), *first.shape[1:], dtype=torch.float64)
        for index, part in enumerate(parts):
            columns[: len(part), index] = part
        return RowStatistics.of(columns).merged()

    @staticmethod
    def merge(parts: Sequence["RowStatistics"]) -> "RowStatistics":
        """Statistics of the union of disjoint key ranges, those with lower keys first."""
        if len(parts) == 1:
            return parts[0]
        return RowStatistics(*torch.stack([p.stack() for p in parts], dim=1).unbind()).merged()

    def merged(self) -> "RowStatistics":
        """Statistics of the union along the first axis, in the order of keys."""
        part, maximum = self, self.maximum.amax(0)
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
