"""Where the brief way applies, and how it goes over all rows."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from service.attention.blocks import Unit, cut, extent, unit_logits
from service.attention.brief.operands import Operands
from service.attention.brief.settling import settle
from service.attention.brief.sums import Taken
from service.attention.brief.taking import Taker
from service.attention.collected import Collected, Precision, Wanted
from service.attention.logits import Logits, Workspace
from service.attention.normalizing import Exponential, Weighing
from service.attention.pattern import Pattern
from service.attention.statistics import RowStatistics
from service.attention.workers import Workers
from service.shape import Shape

# Measured on 2 cores with 2 MiB of cache each: on one thread, two float32 buffers of 2^17 logits
# take 3.7 ns a logit, of 2^16 3.8, of 2^18 4.0; but two threads meet less often over 2^18, and
# 4×8×512 takes 3.9 × SDPA instead of 4.7. Ranges of 1,024 keys are 3 % slower.
KEY_BLOCK = 512

LEAST_KEYS = 256
"""Of shorter rows the arithmetic of `settle` is too large a part: at 128 keys this way takes 1.05
times the general one's time, at 512 0.8 times."""

# Units are settled together, as soon as they hold so many numbers: one by one, that arithmetic
# would take a tenth of the pass.
_SETTLED_NUMBERS = 2**17


class Brief:
    """The brief way over one pass."""

    def __init__(self, operands: Operands, weighing: Exponential) -> None:
        self._operands, self._weighing = operands, weighing

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
    ) -> "Brief | None":
        """The way on the CPU, or None where it does not apply."""
        products, scale = logits.scorer.products, 1.0 if logits.scale is None else logits.scale
        if products is None or not isinstance(weighing, Exponential):
            return None
        if not isinstance(scale, float) or scale == 0 or logits.softcap is not None:
            return None
        if wanted.matrices or wanted.score_moments:
            return None
        if shape.key_length < LEAST_KEYS or logits.visibility.pattern() != Pattern():
            return None
        block = min(KEY_BLOCK, shape.key_length)
        operands = Operands(products, scale, value, shape, precision.compute, key_block=block)
        return cls(operands, weighing)

    def run(self, into: Collected, workers: Workers, checkpoint: Callable[[], None]) -> list[Unit]:
        """Write output and statistics of all rows, but for the units it gives back.

        Those hold rows that are too sharp, tied or not finite, or whose sums about the reference
        have lost digits; they are left to the general way.

        Raises:
            Whatever `checkpoint` raises.
        """
        given_back: list[Unit] = []

        def work(units: Iterable[Unit]) -> None:
            given_back.extend(self._work(units, into, checkpoint))

        operands = self._operands
        workers.run(cut(operands.shape, key_block=operands.key_block), work)
        return given_back

    @torch.inference_mode()
    def _work(
        self, units: Iterable[Unit], into: Collected, checkpoint: Callable[[], None]
    ) -> list[Unit]:
        """Compute the units that this thread is handed; those it gives back."""
        operands = self._operands
        size = unit_logits(operands.shape, key_block=operands.key_block)
        taker = Taker(operands, Workspace(size, operands.dtype, torch.device("cpu")))
        given_back: list[Unit] = []
        pending: list[Taken] = []
        held = 0
        for unit in units:
            checkpoint()
            taken = taker.take(unit)
            if taken is None:
                given_back.append(unit)
                continue
            pending.append(taken)
            held += taken.numbers
            if held >= _SETTLED_NUMBERS:
                given_back += self._settle(pending, into)
                pending, held = [], 0
        if pending:
            given_back += self._settle(pending, into)
        return given_back

    def _settle(self, pending: list[Taken], into: Collected) -> list[Unit]:
        """Write what was found of some units, but for those it gives back."""
        operands, given_back = self._operands, []
        settled = settle(pending, operands.ranges, operands.dtype)
        columns = RowStatistics(*settled.columns.unbind())
        divisors = self._weighing.divisor(1 + columns.tail, columns.maximum) * settled.raised
        sizes = [taken.sums.shape[-1] for taken in pending]
        parts = zip(
            pending,
            settled.columns.split_with_sizes(sizes, -1),
            divisors.to(operands.dtype).split_with_sizes(sizes),
            settled.sound.split_with_sizes(sizes),
            strict=True,
        )
        all_sound = bool(settled.sound.all())
        for taken, figures, divisor, sound in parts:
            unit = taken.unit
            if not ((all_sound or bool(sound.all())) and taken.finite):
                given_back.append(unit)
                continue
            index = (unit.batch, unit.heads, unit.queries)
            lead = (extent(unit.heads), extent(unit.queries))
            into.columns[:, *index] = figures.reshape(-1, *lead)
            if into.output is not None and taken.output is not None:
                torch.div(taken.output, divisor.reshape(*lead, 1), out=into.output[index])
        return given_back
