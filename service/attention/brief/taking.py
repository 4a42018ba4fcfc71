"""Sums and output of one unit after another, about its rows' references."""

import math

import torch
from torch import Tensor

from service.attention.blocks import Unit, extent
from service.attention.brief.operands import Operands
from service.attention.brief.sums import Sum, Taken
from service.attention.logits import Workspace


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
        self.maximum, self.minimum = columns[Sum.MAXIMUM], columns[Sum.MINIMUM]
        self.maximum_, self.minimum_ = (t.unsqueeze(-1) for t in (self.maximum, self.minimum))
        self.second, self.argmax = columns[Sum.SECOND], columns[Sum.ARGMAX]
        self.total, self.squares = columns[Sum.TOTAL], columns[Sum.SQUARES]
        self.weight, self.weight2 = columns[Sum.WEIGHT], columns[Sum.WEIGHT2]
        self.weight3, self.weighted = columns[Sum.WEIGHT3], columns[Sum.WEIGHTED]
        self.weighted_squares = columns[Sum.WEIGHTED_SQUARES]


class _Frame:
    """What one thread computes units of one shape in."""

    def __init__(self, unit: Unit, operands: Operands, work: Workspace) -> None:
        rows, places = extent(unit.heads) * extent(unit.queries), operands.places
        self.sums = torch.empty(len(Sum), len(operands.ranges), rows, dtype=places.dtype)
        self.ranges = [
            _Range(unit, keys, part, work, places)
            for keys, part in zip(operands.ranges, self.sums.unbind(1), strict=True)
        ]
        kv_heads = extent(unit.kv_heads)
        self.queries, self.spare = (
            torch.empty(kv_heads, rows // kv_heads, operands.d_k, dtype=places.dtype)
            for _ in range(2)
        )
        self.reference, self.base = self.sums[Sum.REFERENCE, 0], self.sums[Sum.BASE, 0]
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

    def __init__(self, operands: Operands, work: Workspace) -> None:
        self._operands, self._work = operands, work
        self._frames: dict[tuple[int, int], _Frame] = {}
        self._near = math.log(operands.shape.key_length) / 2
        self._heads: tuple[int, int] | None = None

    def take(self, unit: Unit) -> Taken | None:
        """Sums and output of a unit about its rows' references; None where some are too sharp."""
        operands, heads = self._operands, (unit.batch, unit.kv_heads.start)
        if self._heads != heads:
            self._heads, self._keys = heads, list(operands.keys(unit))
        lead = extent(unit.heads), extent(unit.queries)
        frame = self._frames.get(lead)
        if frame is None:
            frame = _Frame(unit, operands, self._work)
            self._frames[lead] = frame
        queries = operands.queries(unit, frame.queries)
        expected = operands.expected(unit, queries, frame.spare)
        if expected is None:
            return None
        about_zero, first = operands.about_zero(unit.batch), frame.ranges[0]
        output: Tensor | None = None
        for part, (key, value) in zip(frame.ranges, self._keys, strict=True):
            torch.bmm(queries, key, out=part.products)
            if operands.after is not None:
                part.products.mul_(operands.after)
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
