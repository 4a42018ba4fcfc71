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

Mean and variance are summed about 0 while the keys' mean is moderate, else about r too: where one
key stands out, all others are far from r.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum, auto
from functools import cached_property

import torch
from torch import Tensor

from service.attention.blocks import Unit, extent, ranges
from service.attention.collected import Precision, Wanted
from service.attention.logits import Logits, Products, Workspace
from service.attention.normalizing import Exponential, Weighing
from service.attention.pattern import Pattern
from service.attention.rows import underflow_gap
from service.attention.statistics import BLOCK_COLUMNS
from service.shape import Shape

# Measured on 2 cores with 2 MiB of cache each: on one thread, two float32 buffers of 2^17 logits
# take 3.7 ns a logit, of 2^16 3.8, of 2^18 4.0; but two threads meet less often over 2^18, and
# 4×8×512 takes 3.9 × SDPA instead of 4.7. Ranges of 1,024 keys are 3 % slower.
KEY_BLOCK = 512

LEAST_KEYS = 256
"""Of shorter rows the arithmetic of `settle` is too large a part: at 128 keys this way takes 1.05
times the general one's time, at 512 0.8 times."""

# Beyond them the sums about r have lost more than a digit to cancellation, or leave float32.
_MOST_CANCELLED = 32.0
_FURTHEST_ABOVE = 10.0
_FURTHEST_SECOND = {torch.float32: -20.0, torch.float64: -200.0}

# Rows of a larger variance than the second have second keys beyond `_FURTHEST_SECOND`, or flush; of
# a larger one than the first, later ranges of keys have maxima too far above the reference.
_SHARP = 9.0
_SHARPEST = 64.0

# How many keys of a head its moments are estimated from, about: of 128, that took a tenth of the
# pass where these are all.
_SAMPLE = 32


class _Sum(IntEnum):
    """Rows of what a unit collects, (row, key range, unit row) in the compute dtype, of h = s/2."""

    REFERENCE = 0
    BASE = auto()
    MAXIMUM = auto()
    MINIMUM = auto()
    SECOND = auto()
    ARGMAX = auto()
    TOTAL = auto()
    SQUARES = auto()
    WEIGHTED_SQUARES = auto()
    WEIGHT2 = auto()
    WEIGHT3 = auto()
    WEIGHTED = auto()
    WEIGHT = auto()


_SUMS = slice(_Sum.TOTAL, len(_Sum))
_NORMS = slice(_Sum.SQUARES, _Sum.WEIGHTED)
# Of those, the sums over all logits alike; the row's own maximum stays out of the others.
_PLAIN = 2
# Each sum's factor for logits in place of their halves.
_WHOLE = (2.0, 4.0, 4.0, 1.0, 1.0, 2.0, 1.0)


@dataclass(frozen=True, slots=True)
class Taken:
    """What a unit gave: its sums, and Σ exp(s − r)·value (heads, queries, d_v)."""

    unit: Unit
    sums: Tensor
    output: Tensor | None

    @property
    def finite(self) -> bool:
        """Whether values that are not finite, or sums of them that overflow, are in no output."""
        return self.output is None or math.isfinite(float(self.output.sum()))

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


class _Range:
    """One range of keys of units of one shape: where its figures and its exponentials go.

    Views are made once: each is a call that lets go of the interpreter and waits to have it back.
    """

    def __init__(
        self, unit: Unit, keys: slice, sums: Tensor, work: Workspace, places: Tensor
    ) -> None:
        block = work.view(0, unit, keys)
        rows = extent(unit.heads) * extent(unit.queries)
        self.products = block.view(extent(unit.kv_heads), -1, extent(keys))
        self.logits, self.spare = block.view(rows, -1), work.view(1, unit, keys).view(rows, -1)
        self.places = places[: extent(keys)]
        columns = sums.unbind()
        self.maximum, self.minimum = columns[_Sum.MAXIMUM], columns[_Sum.MINIMUM]
        self.maximum_, self.minimum_ = (t.unsqueeze(-1) for t in (self.maximum, self.minimum))
        self.second, self.argmax = columns[_Sum.SECOND], columns[_Sum.ARGMAX]
        self.total, self.squares = columns[_Sum.TOTAL], columns[_Sum.SQUARES]
        self.weight, self.weight2 = columns[_Sum.WEIGHT], columns[_Sum.WEIGHT2]
        self.weight3, self.weighted = columns[_Sum.WEIGHT3], columns[_Sum.WEIGHTED]
        self.weighted_squares = columns[_Sum.WEIGHTED_SQUARES]


class _Frame:
    """What one thread computes units of one shape in."""

    def __init__(self, unit: Unit, brief: "Brief", work: Workspace) -> None:
        rows, places = extent(unit.heads) * extent(unit.queries), brief.places
        self.sums = torch.empty(len(_Sum), len(brief.ranges), rows, dtype=places.dtype)
        self.ranges = [
            _Range(unit, keys, part, work, places)
            for keys, part in zip(brief.ranges, self.sums.unbind(1), strict=True)
        ]
        kv_heads = extent(unit.kv_heads)
        self.queries, self.spare = (
            torch.empty(kv_heads, rows // kv_heads, brief.d_k, dtype=places.dtype) for _ in range(2)
        )
        self.reference, self.base = self.sums[_Sum.REFERENCE, 0], self.sums[_Sum.BASE, 0]
        self.reference_ = self.reference.unsqueeze(-1)
        self.place_ = torch.empty(rows, 1, dtype=torch.int64)
        self.place = self.place_.view(rows)
        self.top_ = torch.empty(rows, 1, dtype=places.dtype)

    def refer(self, expected: Tensor, near: float, *, about_zero: bool) -> None:
        """Make the reference: the expected one where the maximum is less than `near` above it.

        The base, which the plain sums are about, is 0 or the same.
        """
        maximum = self.ranges[0].maximum
        lower = torch.minimum(maximum, expected)
        torch.where(maximum - expected < near, lower, maximum, out=self.reference)
        if about_zero:
            self.base.zero_()
        else:
            self.base.copy_(self.reference)

    def extremes(self, part: _Range) -> None:
        """The extremes of a range; the smallest logit takes the place of the largest."""
        torch.amax(part.logits, -1, out=part.maximum)
        torch.amin(part.logits, -1, out=part.minimum)
        # The place of the maximum is a product with all places. Of several equal ones it is none of
        # theirs, and the second largest gives them away.
        torch.eq(part.logits, part.maximum_, out=part.spare)
        torch.mv(part.spare, part.places, out=part.argmax)
        self.place.copy_(part.argmax.clamp_(max=len(part.places) - 1))
        part.logits.scatter_(-1, self.place_, part.minimum_)
        torch.amax(part.logits, -1, out=part.second)

    def sum(self, part: _Range, *, about_zero: bool) -> None:
        """The sums about the reference, but for the plain ones those about 0 where that is told.

        Exponentials take the logits' place.
        """
        norm, gaps, roots = torch.linalg.vector_norm, part.logits, part.spare
        if about_zero:
            torch.sum(gaps, -1, out=part.total)
            norm(gaps, dim=-1, out=part.squares)
        gaps.sub_(self.reference_)
        if not about_zero:
            torch.sum(gaps, -1, out=part.total)
            norm(gaps, dim=-1, out=part.squares)
        torch.exp(gaps, out=roots)
        gaps.mul_(roots)
        norm(gaps, dim=-1, out=part.weighted_squares)
        gaps.mul_(roots)
        torch.sum(gaps, -1, out=part.weighted)
        exponentials = torch.mul(roots, roots, out=gaps)
        torch.sum(exponentials, -1, out=part.weight)
        norm(exponentials, dim=-1, out=part.weight2)
        roots.mul_(exponentials)
        norm(roots, dim=-1, out=part.weight3)
        torch.sub(part.maximum_, self.reference_, out=self.top_)
        exponentials.scatter_(-1, self.place_, self.top_.mul_(2).exp_())


class Taker:
    """Takes units on one thread."""

    def __init__(self, brief: "Brief", work: Workspace) -> None:
        self._brief, self._work = brief, work
        self._frames: dict[tuple[int, int], _Frame] = {}
        self._near = math.log(brief.shape.key_length) / 2
        self._heads: tuple[int, int] | None = None

    def take(self, unit: Unit) -> Taken | None:
        """Sums and output of a unit about its rows' references; None where some are too sharp."""
        brief, place = self._brief, (unit.batch, unit.kv_heads.start)
        if self._heads != place:
            self._heads, self._operands = place, list(brief.operands(unit))
        lead = extent(unit.heads), extent(unit.queries)
        frame = self._frames.get(lead)
        if frame is None:
            frame = _Frame(unit, brief, self._work)
            self._frames[lead] = frame
        queries = brief.queries(unit, frame.queries)
        expected = brief.expected(unit, queries, frame.spare)
        if expected is None:
            return None
        about_zero, first = brief.about_zero(unit.batch), frame.ranges[0]
        output: Tensor | None = None
        for part, (key, value) in zip(frame.ranges, self._operands, strict=True):
            torch.bmm(queries, key, out=part.products)
            if brief.after is not None:
                part.products.mul_(brief.after)
            frame.extremes(part)
            if part is first:
                frame.refer(expected, self._near, about_zero=about_zero)
            frame.sum(part, about_zero=about_zero)
            if value is None:
                continue
            if output is None:
                output = torch.bmm(part.products, value)
            else:
                output.baddbmm_(part.products, value)
        if output is not None:
            output = output.view(*lead, -1)
        return Taken(unit, frame.sums.clone(), output)


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
        self._products, self._value, self.shape, self._dtype = products, value, shape, dtype
        self.key_block, self.d_k = min(KEY_BLOCK, shape.key_length), products.key[0].shape[-1]
        # A power of two goes into the queries, without rounding.
        folds = math.frexp(scale)[0] in (0.5, -0.5)
        self._before = scale / 2 if folds else None
        self.after = None if folds else scale / 2
        self.places = torch.arange(self.key_block, dtype=dtype)
        self._moments: dict[int, tuple[Tensor, Tensor]] = {}
        self._about_zero: dict[int, bool] = {}

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

    def operands(self, unit: Unit) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Keys (kv_heads, d_k, keys) and values (kv_heads, keys, d_v) of each range."""
        key = self._products.key[unit.batch][unit.kv_heads].transpose(1, 2)
        value = None if self._value is None else self._value[unit.batch][unit.kv_heads]
        for each in self.ranges:
            yield key[..., each], None if value is None else value[:, each]

    def queries(self, unit: Unit, into: Tensor) -> Tensor:
        """Those that share a key head stacked, (kv_heads, rows, d_k); `into` may take them."""
        query = self._products.query[unit.batch][unit.heads, unit.queries]
        stacked = query.reshape(into.shape)
        return stacked if self._before is None else torch.mul(stacked, self._before, out=into)

    def expected(self, unit: Unit, queries: Tensor, spare: Tensor) -> Tensor | None:
        """Half of μ + σ²/2 of each row; None where some are too sharp."""
        mean, variance = (m[unit.kv_heads] for m in self._key_moments(unit.batch))
        halved = queries if self.after is None else queries * self.after
        # Diagonal: as if the entries of a key did not depend on one another.
        quarter = torch.bmm(torch.mul(halved, halved, out=spare), variance)
        if 4 * float(quarter.amax()) > (_SHARP if len(self.ranges) > 1 else _SHARPEST):
            return None
        return quarter.baddbmm_(halved, mean).flatten()

    def about_zero(self, batch: int) -> bool:
        """Whether the keys of an item have a mean that is small beside their spread."""
        if batch not in self._about_zero:
            mean, variance = self._key_moments(batch)
            self._about_zero[batch] = bool((mean.square().sum(1) <= variance.sum(1)).all())
        return self._about_zero[batch]

    def _key_moments(self, batch: int) -> tuple[Tensor, Tensor]:
        """Estimated mean and variance of each entry of an item's keys, (kv_heads, d_k, 1)."""
        if batch not in self._moments:
            # As products with ones, and of some of the keys: a mean over an axis that is not the
            # last took longer than the logits of 128 keys.
            key = self._products.key[batch]
            key = key[:, :: max(1, key.shape[1] // _SAMPLE)].contiguous()
            share = key.new_full((len(key), 1, key.shape[1]), 1 / key.shape[1])
            mean, square = torch.bmm(share, key), torch.bmm(share, key.square())
            self._moments[batch] = mean.mT, (square - mean.square()).mT
        return self._moments[batch]

    def settle(self, taken: Sequence[Taken]) -> Settled:
        """From sums about the references to statistics, for all rows at once."""
        found = torch.cat([each.sums for each in taken], -1).double()
        found[: _Sum.ARGMAX].mul_(2)
        found[_NORMS].square_()
        sums = found[_SUMS].mul_(torch.tensor(_WHOLE, dtype=torch.float64).view(-1, 1, 1))
        reference, base = found[_Sum.REFERENCE, 0], found[_Sum.BASE, 0]
        maxima, minima = found[_Sum.MAXIMUM], found[_Sum.MINIMUM]
        # What stood in the maxima's places goes, and they come.
        bottom, top = minima - reference, maxima - reference
        shares = [*_shares(minima - base), *_weighted_shares(bottom, bottom.exp())]
        sums.sub_(torch.stack(shares))
        sums[:_PLAIN].add_(torch.stack(_shares(maxima - base)))
        raised, second, argmax = top.exp(), found[_Sum.SECOND], found[_Sum.ARGMAX]
        tied = (second >= maxima).any(0)
        if len(self.ranges) > 1:
            highest, first = maxima.max(0, keepdim=True)
            argmax = (argmax + self.starts).gather(0, first)
            lost = torch.ones_like(maxima).scatter_(0, first, 0.0)
            second = torch.where(lost > 0, maxima, second).amax(0, keepdim=True)
            sums[_PLAIN:].addcmul_(torch.stack(_weighted_shares(top, raised)), lost)
            maxima, raised, sums = highest, raised.gather(0, first), sums.sum(1, keepdim=True)
        return self._referred(
            reference,
            base,
            maxima[0],
            second[0],
            minima.amin(0),
            argmax[0],
            raised[0],
            sums[:, 0],
            tied=tied,
        )

    @cached_property
    def ranges(self) -> list[slice]:
        """The ranges of keys, one after the other, none of a single key: that would be left out."""
        found = list(ranges(self.shape.key_length, self.key_block))
        if len(found) > 1 and extent(found[-1]) == 1:
            start, stop = found[-2].start, found[-1].stop
            found[-2:] = [slice(start, stop - 2), slice(stop - 2, stop)]
        return found

    @cached_property
    def starts(self) -> Tensor:
        """Where each range starts, (range, 1)."""
        starts = [keys.start for keys in self.ranges]
        return torch.tensor(starts, dtype=torch.float64).unsqueeze(-1)

    def _referred(
        self,
        reference: Tensor,
        base: Tensor,
        maximum: Tensor,
        second: Tensor,
        minimum: Tensor,
        argmax: Tensor,
        raised: Tensor,
        sums: Tensor,
        *,
        tied: Tensor,
    ) -> Settled:
        """The sums about the reference, referred to the maximum; and whether they can be."""
        keys = float(self.shape.key_length)
        total, plain, weighted_squares, tail2, tail3, weighted, tail = sums.unbind()
        above = maximum - reference
        weight = tail + raised
        own = raised * above
        mean_gap = (weighted + own) / weight
        about = torch.addcmul(weighted_squares, own, above)
        spread = about - weight * mean_gap.square()
        mean = total / keys
        squares = plain - keys * mean.square()
        # A comparison with NaN is false: what is not finite is not sound.
        sound = maximum - minimum < underflow_gap(self._dtype)
        sound &= ~tied
        sound &= above <= _FURTHEST_ABOVE
        sound &= second - reference >= _FURTHEST_SECOND[self._dtype]
        sound &= about <= _MOST_CANCELLED * spread
        sound &= plain <= _MOST_CANCELLED * squares
        down = 1 / raised
        columns = torch.zeros(BLOCK_COLUMNS, len(maximum), dtype=torch.float64)
        columns[0] = keys
        figures = [maximum, second, minimum, argmax, tail * down]
        figures += [tail2 * down.square(), tail3 * down.square() * down]
        figures += [torch.addcmul(weighted, above, tail, value=-1) * down, spread * down]
        figures += [base + mean, squares]
        torch.stack(figures, out=columns[1 : 1 + len(figures)])
        return Settled(columns, raised, sound)


def _shares(gaps: Tensor) -> list[Tensor]:
    """What logits of these gaps to the base add to the plain sums."""
    return [gaps, gaps.square()]


def _weighted_shares(gaps: Tensor, exponentials: Tensor) -> list[Tensor]:
    """What logits of these gaps to the reference add to the others."""
    weighted, squares = exponentials * gaps, exponentials.square()
    return [weighted * gaps, squares, squares * exponentials, weighted, exponentials]
