"""A mechanism over its operands, set up once and measured under many scales and softcaps."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from schemas.comparisons import Target
from service.analysis import set_up
from service.attention.blocks import Unit
from service.attention.collected import Attended, Precision, Wanted
from service.attention.logits import Factor, Logits, Visibility
from service.attention.pattern import Pattern
from service.attention.streaming import attend
from service.diagnostics import DIAGNOSTICS, Rows, evaluate
from service.diagnostics.verdict import Counts
from service.plan import Plan
from service.runtime import Runtime
from service.scales import Scale

_FIGURES = [DIAGNOSTICS["max_weight"], DIAGNOSTICS["normalized_entropy"]]


@dataclass(frozen=True, slots=True)
class Aim:
    """The target as one figure of each head, its rows pooled over the batch."""

    figure: str
    target: float

    @classmethod
    def of(cls, target: Target) -> "Aim":
        """From the request."""
        if target.saturated_share_max is not None:
            return cls("saturated_share", target.saturated_share_max)
        return cls("normalized_entropy", float(target.normalized_entropy_min or 0.0))

    def measure(self, figures: Mapping[str, Tensor]) -> Tensor:
        """The figure of each head (heads,), from those of the rows (batch, heads, N).

        NaN for a head without a row of two visible keys.
        """
        if self.figure == "normalized_entropy":
            return figures["normalized_entropy"].nanmean((0, 2))
        return saturated_share(figures)

    def reached(self, measured: Tensor) -> Tensor:
        """Whether each head reaches it; one without rows has nothing to reach."""
        if self.figure == "normalized_entropy":
            return ~(measured < self.target)
        return ~(measured > self.target)


def saturated_share(figures: Mapping[str, Tensor]) -> Tensor:
    """Of each head (heads,), from max weights and normalised entropies (batch, heads, N)."""
    counts = Counts.of(figures["max_weight"], figures["normalized_entropy"]).pooled(0)
    return counts.saturated / counts.rows.double()


@dataclass(frozen=True, slots=True)
class Look:
    """What one pass shows.

    Max weight and normalised entropy of each row (batch, heads, N); the heads' output
    (batch, heads, N, d_v) before any projection, where it was wanted and there is a value; and how
    many rows of each head (heads,) are in no figure, since a logit overflowed.
    """

    figures: dict[str, Tensor]
    output: Tensor | None
    overflowed: Tensor


class Bench:
    """One plan, set up once. Factors are one number, or one for each head (heads,)."""

    def __init__(self, plan: Plan, runtime: Runtime) -> None:
        self.plan, self.runtime = plan, runtime
        with torch.inference_mode():
            _, _, self._scored = set_up(plan, runtime)

    @property
    def scale(self) -> Scale | None:
        """As the plan resolves it."""
        return self._scored.scale

    @property
    def softcap(self) -> float | None:
        """The one that the plan has."""
        return self.plan.request.mechanism.softcap

    @torch.inference_mode()
    def look(
        self,
        *,
        temperature: Tensor | None = None,
        softcap: Tensor | None = None,
        output: bool = False,
    ) -> Look:
        """One pass under these settings."""
        attended = self._attend(self._logits(temperature, softcap), Wanted(output=output))
        lost = (attended.statistics.overflowed > 0).sum((0, 2)).cpu()
        return Look(evaluate(_FIGURES, self._rows(attended)), attended.output, lost)

    @torch.inference_mode()
    def finished(self, output: Tensor) -> Tensor:
        """The mechanism's output from that of the heads: projected, where it is."""
        prepared = self._scored.prepared
        return output if prepared is None or prepared.finish is None else prepared.finish(output)

    @torch.inference_mode()
    def extremes(self) -> tuple[Tensor, float]:
        """The largest visible scaled score of each head (heads,), and the largest magnitude.

        Before softcap and bias, which act on scores that are scaled already. −∞ without a key.
        """
        logits = replace(
            self._scored.logits,
            softcap=None,
            visibility=_WithoutBias(self._scored.logits.visibility),
        )
        statistics = self._attend(logits, Wanted(output=False)).statistics
        usable = torch.isfinite(statistics.maximum) & (statistics.overflowed == 0)
        highest = torch.where(usable, statistics.maximum, float("-inf")).amax((0, 2))
        low = torch.where(usable, statistics.minimum, 0.0)
        high = torch.where(usable, statistics.maximum, 0.0)
        return highest.cpu(), float(torch.maximum(low.abs(), high.abs()).max())

    def _logits(self, temperature: Tensor | None, softcap: Tensor | None) -> Logits:
        logits = self._scored.logits
        if temperature is not None and logits.scale is not None:
            scale = logits.scale
            base = scale.double() if isinstance(scale, Tensor) else scale
            logits = replace(logits, scale=self._by_row(base / self._by_head(temperature)))
        if softcap is not None:
            logits = replace(logits, softcap=self._by_row(self._by_head(softcap)))
        return logits

    def _by_head(self, values: Tensor) -> Tensor:
        return values.double().view(1, -1, 1)

    def _by_row(self, values: Tensor) -> Factor:
        shape = self.plan.shape
        full = values.expand(shape.batch, shape.heads, shape.query_length)
        return full.to(device=self.runtime.device, dtype=self.plan.compute_dtype)

    def _attend(self, logits: Logits, wanted: Wanted) -> Attended:
        compute = self.plan.compute_dtype
        return attend(
            logits,
            self._scored.value if wanted.output else None,
            self.plan.normalizer,
            shape=self.plan.shape,
            wanted=wanted,
            precision=Precision(compute, compute, compute),
            device=self.runtime.device,
            workers=self.runtime.workers,
            checkpoint=self.runtime.checkpoint,
            native=self.runtime.native,
        )

    def _rows(self, attended: Attended) -> Rows:
        sums = attended.weight_sums
        return Rows.of(
            attended.statistics.to("cpu"),
            scale=None,
            weighing=self.plan.normalizer,
            weight_sums=None if sums is None else sums.cpu(),
        )


@dataclass(frozen=True, slots=True)
class _WithoutBias:
    """The same masks, and nothing added."""

    inner: Visibility

    def visible(self, unit: Unit, keys: slice) -> bool | Tensor:
        """As before."""
        return self.inner.visible(unit, keys)

    def bias(self, unit: Unit, keys: slice) -> None:
        """Nothing."""

    def pattern(self) -> Pattern | None:
        """That of the inner one; with a bias, which also hides, there is none."""
        pattern = self.inner.pattern()
        return None if pattern is None or pattern.bias is not None else pattern
