"""What is known of a baseline before a remedy is looked for, and what one does to it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from schemas.mechanisms import LARGEST_SOFTCAP, SMALLEST_SOFTCAP
from service.laboratory.bench import Aim, Bench
from service.laboratory.numbers import plain, relative_change, relative_changes
from service.laboratory.search import Found, log_grid, search

# Logits that all lie within a hundredth of one another weigh all keys alike.
NEARLY_EQUAL = 0.01
_LARGEST_TEMPERATURE = 1e300


def heads_named(heads: list[int]) -> str:
    """Some heads in words."""
    shown = ", ".join(map(str, heads[:8])) + (" and others" if len(heads) > 8 else "")
    return f"heads {shown}" if len(heads) > 1 else f"head {shown}"


@dataclass(frozen=True, slots=True)
class Effect:
    """The target's figure of each head, whether it reaches it, and how far the output moved."""

    figures: list[float | None]
    reached: list[bool]
    output_change: float | None
    output_changes: list[float | None]


class Trial:
    """A baseline, its target, and its measured figures.

    `before` is the target's figure of each head, `fine` (heads,) whether it reaches it; `highest`
    (heads,) the largest visible scaled score of each, `magnitude` the largest magnitude of all;
    `overflowing` the heads with rows that are in no figure.
    """

    def __init__(self, aim: Aim, bench: Bench) -> None:
        self.aim, self.bench = aim, bench
        self.heads = bench.plan.shape.heads
        self.highest, self.magnitude = bench.extremes()
        look = bench.look(output=True)
        before = aim.measure(look.figures)
        self.before: list[float | None] = plain(before)
        self.fine = aim.reached(before)
        self.overflowing = [head for head, rows in enumerate(look.overflowed.tolist()) if rows]
        self._output = look.output

    def effect(self, *, temperature: Tensor | None = None, softcap: Tensor | None = None) -> Effect:
        """Of one value for each head, by a pass of its own."""
        look = self.bench.look(temperature=temperature, softcap=softcap, output=True)
        measured, output = self.aim.measure(look.figures), look.output
        whole: float | None = None
        heads: list[float | None] = [None] * self.heads
        if output is not None and self._output is not None:
            heads = relative_changes(output, self._output)
            finished = (self.bench.finished(o) for o in (output, self._output))
            whole = relative_change(*finished)
        return Effect(plain(measured), self.aim.reached(measured).tolist(), whole, heads)

    def temperatures(self) -> tuple[Found, float]:
        """The mildest temperature of each head, and the largest that was tried."""
        strongest = min(max(2.0, 2 * self.magnitude / NEARLY_EQUAL), _LARGEST_TEMPERATURE)

        def reached(values: Tensor) -> Tensor:
            return self.aim.reached(self.aim.measure(self.bench.look(temperature=values).figures))

        return search(log_grid(1.0, strongest), reached, self.heads), strongest

    def softcaps(self) -> tuple[Found, float]:
        """The mildest softcap of each head, and the smallest that was tried."""
        mildest = min(10 * max(self.magnitude, 1.0), LARGEST_SOFTCAP)
        if (present := self.bench.softcap) is not None:
            mildest = min(mildest, present)
        strongest = max(min(NEARLY_EQUAL / 2, mildest / 10), SMALLEST_SOFTCAP)

        def reached(values: Tensor) -> Tensor:
            return self.aim.reached(self.aim.measure(self.bench.look(softcap=values).figures))

        return search(log_grid(mildest, strongest), reached, self.heads), strongest

    def applied_softcaps(self, found: Found) -> Tensor:
        """A value for each head: where none is needed or none helps, the one that is there."""
        present = self.bench.softcap
        absent = LARGEST_SOFTCAP if present is None else present
        return torch.where(self.fine | ~found.reachable, absent, found.values)

    def applied_temperatures(self, found: Found) -> Tensor:
        """A value for each head: 1 where none is needed or none helps."""
        return torch.where(self.fine | ~found.reachable, 1.0, found.values)


def beside_the_bias(trial: Trial) -> str:
    """What no scale and no softcap acts on, where there is one."""
    biased = trial.bench.plan.request.mask.bias is not None
    return "; it does not touch the bias" if biased else ""
