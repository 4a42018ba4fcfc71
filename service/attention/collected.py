"""What a pass collects, and the tensors it is collected in."""

from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from service.attention.normalizing import WEIGHT_SUMS
from service.attention.statistics import BLOCK_COLUMNS, NEGATIVE_INFINITY, RowStatistics
from service.shape import Shape


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the pass collects beside the statistics; matrices are (batch, heads, N, M)."""

    output: bool = True
    weights: bool = False
    logits: bool = False
    scores: bool = False
    score_moments: bool = False
    score_figures: bool = False

    statistics: bool = True
    """Those beyond what output and counts need; the eager pass collects them all the same."""

    @property
    def matrices(self) -> bool:
        """Whether something of the size of the weights is held."""
        return self.weights or self.logits or self.scores


@dataclass(frozen=True, slots=True)
class Precision:
    """Of all arithmetic (float32 or float64), of the output, and of the weights."""

    compute: torch.dtype
    output: torch.dtype
    weights: torch.dtype


@dataclass(slots=True)
class Attended:
    """What the pass gives: output (batch, heads, N, d_v), statistics (batch, heads, N).

    `weight_sums` (6, batch, heads, N) where the weights are not exponentials over a divisor;
    `figures` the sums over the visible keys of what the scores come with, by name; `native` whether
    the compiled pass computed them.
    """

    statistics: RowStatistics
    output: Tensor | None
    weights: Tensor | None
    logits: Tensor | None
    scores: Tensor | None
    weight_sums: Tensor | None = None
    figures: dict[str, Tensor] = field(default_factory=dict)
    native: bool = False

    @property
    def pass_name(self) -> str:
        """Which pass it was, as answers name it."""
        return "native" if self.native else "eager"


class Collected:
    """The tensors that units write their parts of."""

    def __init__(
        self,
        shape: Shape,
        wanted: Wanted,
        precision: Precision,
        device: torch.device,
        *,
        d_v: int | None,
        whole_rows: bool,
        direct: bool,
        figures: tuple[str, ...],
        filled: bool = True,
    ) -> None:
        """`filled` is for passes that write no row without a key; see `leave`."""
        lead = (shape.batch, shape.heads, shape.query_length)
        full = (*lead, shape.key_length)
        new = partial(torch.zeros, device=device)
        wide = partial(new, dtype=torch.float64)
        # One range of keys leaves its columns, rewritten for all rows at once: on small requests
        # that arithmetic, unit by unit, took a quarter of the time.
        self.whole_rows = whole_rows
        self._filled, empty = filled, partial(torch.empty, device=device)
        if not filled:
            self.columns = empty((BLOCK_COLUMNS, *lead), dtype=torch.float64)
        elif whole_rows:
            self.columns = wide((BLOCK_COLUMNS, *lead))
        else:
            self.columns = RowStatistics.empty(*lead, device=device).stack()
        self.output = None
        if wanted.output and d_v is not None:
            make = new if filled else empty
            self.output = make((*lead, d_v), dtype=precision.output)
        self.weights = new(full, dtype=precision.weights) if wanted.weights else None
        self.logits = new(full, dtype=precision.compute) if wanted.logits else None
        if self.logits is not None:
            self.logits.fill_(NEGATIVE_INFINITY)
        self.scores = new(full, dtype=precision.compute) if wanted.scores else None
        self.sums = wide((WEIGHT_SUMS, *lead)) if direct else None
        self.names = figures if wanted.score_figures else ()
        self.figures = wide((len(self.names), *lead)) if self.names else None

    def leave(self, index: tuple[int, slice, slice]) -> None:
        """Rows (batch item, heads, queries) that see no key."""
        if self._filled:
            return
        lead = self.columns[0][index].shape
        self.columns[:, *index] = RowStatistics.empty(*lead, device=self.columns.device).stack()
        if self.output is not None:
            self.output[index] = 0

    def result(self) -> Attended:
        """What all units together gave."""
        columns, figures = self.columns, self.figures
        named = {} if figures is None else dict(zip(self.names, figures, strict=True))
        statistics = (
            RowStatistics.of(columns) if self.whole_rows else RowStatistics(*columns.unbind())
        )
        return Attended(
            statistics, self.output, self.weights, self.logits, self.scores, self.sums, named
        )
