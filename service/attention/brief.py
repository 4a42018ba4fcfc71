"""Rows that see every key of plain dot products, in as few visits of their logits as torch allows.

`rows` takes any logits, in some 25 visits of each beside the two products. Here it is 17, in two
buffers that stay in the cache, since nothing is hidden and a row keeps one reference r for all its
keys: the sums about r of one range of keys after another are added and never rescaled.

r is the row's maximum m over its first keys, unless the logarithm of the mean exponential that
normal logits of its mean and variance would have, μ + σ²/2, lies so little below it that the other
keys outweigh the largest; then it is that. Both moments are estimated from the operands, and need
not be right: about a bad r sums cancel, which shows in them, and `settle` gives such rows back to
be computed by the general way.

Everything is of halved logits, exactly: with e = exp((s − r)/2), the norms of e², e³ and e·(s − r)
are the sums of u², u³ and u·(s − r)², where a product and its sum would be two visits. The largest
logit of each range stays out of the sums: the smallest takes its place meanwhile, and is taken off
in float64.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, auto

import torch
from torch import Tensor

from service.attention.blocks import Unit, extent, ranges
from service.attention.collected import Precision, Wanted
from service.attention.logits import Logits, Products, Workspace
from service.attention.normalizing import Exponential, Weighing
from service.attention.pattern import Pattern
from service.attention.rows import underflow_gap
from service.shape import Shape

# Measured on 2 cores with 2 MiB of cache each: two float32 buffers of 2^17 logits 3.7 ns a logit,
# of 2^16 3.8, of 2^18 4.0; 128 queries × 1,024 keys like 256 × 512, 64 × 2,048 4 % slower.
KEY_BLOCK = 1024
SHARE = 2
"""How many of these units one of the general way would hold."""

LEAST_KEYS = 64
"""Shorter rows are dispatch and little else in either way."""

# Beyond them the sums about r have lost more than a digit to cancellation, or leave float32.
_MOST_CANCELLED = 32.0
_FURTHEST_ABOVE = 10.0
_FURTHEST_SECOND = {torch.float32: -20.0, torch.float64: -200.0}
_LARGEST_VALUE = 1e30


class _Sum(IntEnum):
    """Rows of what a unit collects, (row, key range, unit row) in the compute dtype, of h = s/2."""

    REFERENCE = 0
    MAXIMUM = auto()
    MINIMUM = auto()
    SECOND = auto()
    ARGMAX = auto()
    TOTAL = auto()
    SQUARES = auto()
    WEIGHT = auto()
    WEIGHT2 = auto()
    WEIGHT3 = auto()
    WEIGHTED = auto()
    WEIGHTED_SQUARES = auto()


@dataclass(frozen=True, slots=True)
class Taken:
    """What a unit gave: its sums, and Σ exp(s − r)·value (heads, queries, d_v)."""

    unit: Unit
    sums: Tensor
    output: Tensor | None

    @property
    def numbers(self) -> int:
        """How many numbers it holds."""
        return self.sums.numel() + (0 if self.output is None else self.output.numel())


@dataclass(frozen=True, slots=True)
class Settled:
    """Of the rows of several units, one after the other.

    `columns` (statistic, row) in the order of `RowStatistics`; `raised` is exp(maximum − r), by
    which the outputs exceed those referred to the maximum; `sound` which rows' figures hold.
    """

    columns: Tensor
    raised: Tensor
    sound: Tensor


class Brief:
    """The brief way over one pass."""

    def __init__(
        self,
        products: Products,
        scale: float,
        value: tuple[Tensor, ...] | None,
        shape: Shape,
        dtype: torch.dtype,
    ) -> None:
        self._products, self._value, self._shape, self._dtype = products, value, shape, dtype
        self.key_block = min(KEY_BLOCK, shape.key_length)
        # A power of two goes into the queries, without rounding.
        folds = math.frexp(scale)[0] in (0.5, -0.5)
        self._before = scale / 2 if folds else None
        self._after = None if folds else scale / 2
        self._places = torch.arange(self.key_block, dtype=dtype)
        self._moments: dict[int, tuple[Tensor, Tensor]] = {}
        self._moderate: dict[int, bool] = {}

    @classmethod
    def of(
        cls,
        logits: Logits,
        value: tuple[Tensor, ...] | None,
        weighing: Weighing,
        *,
        shape: Shape,
        wanted: Wanted,
        precision: Precision,
        device: torch.device,
    ) -> "Brief | None":
        """The way, or None where it does not apply."""
        products, scale = logits.scorer.products, 1.0 if logits.scale is None else logits.scale
        applies = (
            isinstance(weighing, Exponential)
            and isinstance(scale, float)
            and scale != 0
            and logits.softcap is None
            and not (wanted.matrices or wanted.score_moments)
            and device.type == "cpu"
            and shape.key_length >= LEAST_KEYS
            and logits.visibility.pattern() == Pattern()
        )
        if not applies or products is None or not isinstance(scale, float):
            return None
        return cls(products, scale, value, shape, precision.compute)

    def take(self, unit: Unit, work: Workspace) -> Taken | None:
        """Sums and output of a unit, about its rows' references; None where values are too large.

        Args:
            unit: some queries of some heads.
            work: two buffers of its size.
        """
        if not self._moderate_value(unit.batch):
            return None
        queries = self._products.query[unit.batch][unit.heads, unit.queries]
        kv_heads = extent(unit.kv_heads)
        stacked = queries.reshape(kv_heads, -1, queries.shape[-1])
        if self._before is not None:
            stacked = stacked * self._before
        key = self._products.key[unit.batch][unit.kv_heads]
        blocks = list(ranges(self._shape.key_length, self.key_block))
        rows = extent(unit.heads) * extent(unit.queries)
        sums = torch.empty(len(_Sum), len(blocks), rows, dtype=self._dtype)
        expected: Tensor | None = self._expected(unit, stacked)
        output: Tensor | None = None
        for part, keys in zip(sums.unbind(1), blocks, strict=True):
            block, spare = work.view(0, unit, keys), work.view(1, unit, keys)
            products = block.view(kv_heads, -1, extent(keys))
            torch.bmm(stacked, key[:, keys].transpose(1, 2), out=products)
            if self._after is not None:
                products.mul_(self._after)
            flat = block.view(rows, -1), spare.view(rows, -1)
            self._sum(*flat, part, sums[_Sum.REFERENCE, 0], expected)
            expected = None
            output = self._weigh(products, unit, keys, output)
        if output is not None:
            output = output.view(extent(unit.heads), extent(unit.queries), -1)
        return Taken(unit, sums, output)

    def _moderate_value(self, batch: int) -> bool:
        """Whether no sum over exponentials of up to `_FURTHEST_ABOVE` leaves the dtype."""
        if self._value is None:
            return True
        if batch not in self._moderate:
            largest = self._value[batch].abs().amax() if self._value[batch].numel() else 0.0
            self._moderate[batch] = float(largest) < _LARGEST_VALUE
        return self._moderate[batch]

    def _expected(self, unit: Unit, stacked: Tensor) -> Tensor:
        """Half of μ + σ²/2 of each row, with the keys' covariance taken for diagonal."""
        if unit.batch not in self._moments:
            key = self._products.key[unit.batch]
            mean = key.mean(1, keepdim=True)
            variance = key.square().mean(1, keepdim=True) - mean.square()
            self._moments[unit.batch] = mean.mT, variance.mT
        mean, variance = (m[unit.kv_heads] for m in self._moments[unit.batch])
        halved = stacked if self._after is None else stacked * self._after
        return torch.bmm(halved, mean).add_(torch.bmm(halved.square(), variance)).flatten()

    def _sum(
        self,
        logits: Tensor,
        spare: Tensor,
        into: Tensor,
        reference: Tensor,
        expected: Tensor | None,
    ) -> None:
        """Collect a range of keys, and leave its exponentials (rows, keys) in `logits`.

        `expected` is given with the first range, from which the reference is made.
        """
        sums, keys = into.unbind(), logits.shape[-1]
        maximum, minimum = sums[_Sum.MAXIMUM], sums[_Sum.MINIMUM]
        torch.amax(logits, -1, out=maximum)
        torch.amin(logits, -1, out=minimum)
        # The place of the maximum is a product with all places. Of several equal ones it is none of
        # theirs, and the second largest gives them away.
        torch.eq(logits, maximum.unsqueeze(-1), out=spare)
        torch.mv(spare, self._places[:keys], out=sums[_Sum.ARGMAX])
        at = sums[_Sum.ARGMAX].clamp_(max=keys - 1).long().unsqueeze(-1)
        logits.scatter_(-1, at, minimum.unsqueeze(-1))
        if keys > 1:
            torch.amax(logits, -1, out=sums[_Sum.SECOND])
        else:
            sums[_Sum.SECOND].fill_(float("-inf"))
        if expected is not None:
            near = maximum - expected < math.log(self._shape.key_length) / 2
            torch.where(near, torch.minimum(maximum, expected), maximum, out=reference)
        gaps = logits.sub_(reference.unsqueeze(-1))
        torch.sum(gaps, -1, out=sums[_Sum.TOTAL])
        torch.linalg.vector_norm(gaps, dim=-1, out=sums[_Sum.SQUARES])
        roots = torch.exp(gaps, out=spare)
        gaps.mul_(roots)
        torch.linalg.vector_norm(gaps, dim=-1, out=sums[_Sum.WEIGHTED_SQUARES])
        gaps.mul_(roots)
        torch.sum(gaps, -1, out=sums[_Sum.WEIGHTED])
        exponentials = torch.mul(roots, roots, out=logits)
        torch.sum(exponentials, -1, out=sums[_Sum.WEIGHT])
        torch.linalg.vector_norm(exponentials, dim=-1, out=sums[_Sum.WEIGHT2])
        torch.linalg.vector_norm(roots.mul_(exponentials), dim=-1, out=sums[_Sum.WEIGHT3])
        largest = (maximum - reference).exp_()
        exponentials.scatter_(-1, at, largest.square_().unsqueeze(-1))

    def _weigh(
        self, weights: Tensor, unit: Unit, keys: slice, before: Tensor | None
    ) -> Tensor | None:
        if self._value is None:
            return None
        value = self._value[unit.batch][unit.kv_heads, keys]
        if before is None:
            return torch.bmm(weights, value)
        return before.baddbmm_(weights, value)

    def settle(self, taken: Sequence[Taken]) -> Settled:
        """From sums about the references to statistics, for all rows at once."""
        sums = torch.cat([each.sums for each in taken], -1).double()
        minimum, maximum, second = (2 * sums[c] for c in (_Sum.MINIMUM, _Sum.MAXIMUM, _Sum.SECOND))
        reference = 2 * sums[_Sum.REFERENCE, 0]
        top, bottom = maximum - reference, minimum - reference
        # What stood in the maximum's place goes; a range's maximum that is not the row's comes.
        out, highest = bottom.exp(), maximum.amax(0)
        leads = maximum == highest
        wins = leads & (leads.cumsum(0) == 1)
        own = torch.where(wins, 0.0, top.exp())
        tail, tail2, tail3 = (
            (found - out**power + own**power).sum(0)
            for found, power in (
                (sums[_Sum.WEIGHT], 1),
                (sums[_Sum.WEIGHT2].square(), 2),
                (sums[_Sum.WEIGHT3].square(), 3),
            )
        )
        weighted = (2 * sums[_Sum.WEIGHTED] - out * bottom + own * top).sum(0)
        squares = 4 * sums[_Sum.WEIGHTED_SQUARES].square()
        weighted_squares = (squares - out * bottom.square() + own * top.square()).sum(0)
        total = (2 * sums[_Sum.TOTAL] - bottom + top).sum(0)
        plain = (4 * sums[_Sum.SQUARES].square() - bottom.square() + top.square()).sum(0)
        return self._referred(
            reference,
            highest,
            torch.where(wins, second, maximum).amax(0),
            minimum.amin(0),
            self._place(sums[_Sum.ARGMAX], wins),
            (tail, tail2, tail3),
            (weighted, weighted_squares),
            (total, plain),
            tied=(second >= maximum).any(0),
        )

    def _place(self, within: Tensor, wins: Tensor) -> Tensor:
        """Index of the maximum among all keys, from those within the ranges."""
        first = torch.arange(len(within), dtype=torch.float64).mul_(self.key_block).unsqueeze(-1)
        return torch.where(wins, within + first, 0.0).sum(0)

    def _referred(
        self,
        reference: Tensor,
        maximum: Tensor,
        second: Tensor,
        minimum: Tensor,
        argmax: Tensor,
        tails: tuple[Tensor, Tensor, Tensor],
        weighted: tuple[Tensor, Tensor],
        plain: tuple[Tensor, Tensor],
        *,
        tied: Tensor,
    ) -> Settled:
        """The sums about the reference, referred to the maximum; and whether they can be."""
        keys = float(self._shape.key_length)
        above = maximum - reference
        raised = above.exp()
        tail, tail2, tail3 = tails
        weight = tail + raised
        mean_gap = (weighted[0] + raised * above) / weight
        about = weighted[1] + raised * above.square()
        spread = about - weight * mean_gap.square()
        mean = plain[0] / keys
        squares = plain[1] - keys * mean.square()
        # A comparison with NaN is false: what is not finite is not sound.
        sound = (
            ~tied
            & (maximum - minimum < underflow_gap(self._dtype))
            & (above <= _FURTHEST_ABOVE)
            & (second - reference >= _FURTHEST_SECOND[self._dtype])
            & (about <= _MOST_CANCELLED * spread)
            & (plain[1] <= _MOST_CANCELLED * squares)
        )
        down = 1 / raised
        zero = torch.zeros_like(maximum)
        columns = [torch.full_like(maximum, keys), maximum, second, minimum, argmax]
        columns += [tail * down, tail2 * down**2, tail3 * down**3]
        columns += [(weighted[0] - above * tail) * down, spread * down]
        columns += [reference + mean, squares, zero, zero, zero, zero, zero]
        return Settled(torch.stack(columns), raised, sound)
