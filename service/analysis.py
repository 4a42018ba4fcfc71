"""One analysis, from request to verdict: the story, top to bottom."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from schemas.inputs import WeightInputs
from service import operands
from service.attention.logits import Logits, Scorer
from service.attention.second_pass import Revisited, revisit
from service.attention.streaming import Attended, attend
from service.attention.workers import Workers
from service.masks import MASKS, CombinedMask
from service.masks.resolve import ResolvedMask, resolve
from service.mechanisms import MECHANISMS
from service.mechanisms.given import GivenLogits, GivenWeights
from service.operands import Operands
from service.plan import Plan
from service.report import Analysis, report

PASS_NAME = "eager"
_SUM_TOLERANCE = {
    torch.float64: 1e-9,
    torch.float32: 1e-4,
    torch.float16: 1e-2,
    torch.bfloat16: 5e-2,
}


@dataclass(frozen=True, slots=True)
class Runtime:
    """Where an analysis runs, on which threads, and how it is told to stop."""

    device: torch.device
    workers: Workers
    checkpoint: Callable[[], None] = lambda: None


@torch.inference_mode()
def analyse(plan: Plan, runtime: Runtime) -> Analysis:
    """Run one analysis.

    Raises:
        NonFinite, Invalid, InvalidMask: what only the tensors themselves tell.
    """
    request = plan.request
    taken = operands.prepare(
        request.inputs,
        cast=request.compute.dtype,
        device=runtime.device,
        nonfinite=request.compute.nonfinite,
    )
    mask = resolve(request.mask, plan.shape, MASKS, dtype=plan.compute_dtype, device=runtime.device)
    logits, scale = _logits(plan, taken, mask)
    attended = attend(
        logits,
        taken.value,
        shape=plan.shape,
        wanted=plan.wanted,
        dtype=plan.compute_dtype,
        answer_dtype=plan.answer_dtype,
        device=runtime.device,
        workers=runtime.workers,
        checkpoint=runtime.checkpoint,
    )
    again = _second(plan, logits, mask, attended, runtime)
    row_sums = _restore_weights(plan, taken, attended, masked=mask.members != ())
    return report(plan, taken, mask, scale, attended, again, row_sums)


def _logits(plan: Plan, taken: Operands, mask: ResolvedMask) -> tuple[Logits, float | None]:
    """The pipeline up to the normaliser, and the resolved scale."""
    mechanism = plan.request.mechanism
    if taken.given is not None:
        given: GivenLogits | GivenWeights
        if isinstance(plan.request.inputs, WeightInputs):
            operands.check_weights(taken.given)
            given = GivenWeights(taken.given)
        else:
            given = GivenLogits(taken.given)
        return Logits(given, CombinedMask((*mask.members, given)), None, None), None
    member = MECHANISMS[mechanism.kind]
    scale = member.default_scale(plan.shape) if mechanism.scale is None else mechanism.scale
    scorer: Scorer = member.scorer(taken, plan.shape)
    return Logits(scorer, CombinedMask(mask.members), scale, mechanism.softcap), scale


def _second(
    plan: Plan, logits: Logits, mask: ResolvedMask, attended: Attended, runtime: Runtime
) -> Revisited:
    if not plan.second.anything:
        return Revisited()
    if isinstance(plan.request.inputs, WeightInputs):
        # A given weight of 0 has no logit for the sums, but its key is seen all the same.
        logits = replace(logits, visibility=CombinedMask(mask.members))
    return revisit(
        logits,
        attended.statistics,
        plan.second,
        shape=plan.shape,
        dtype=plan.compute_dtype,
        device=runtime.device,
        workers=runtime.workers,
        checkpoint=runtime.checkpoint,
    )


def _restore_weights(
    plan: Plan, taken: Operands, attended: Attended, *, masked: bool
) -> tuple[float, float, int] | None:
    """Given weights that do not sum to 1 are shown and applied as given; their sums are reported.

    The statistics are those of the row over its sum, which is exp(lse) = exp(m)(1 + tail) here.
    """
    if not isinstance(plan.request.inputs, WeightInputs) or taken.given is None:
        return None
    statistics = attended.statistics
    sums = statistics.maximum.exp() * (1 + statistics.tail)
    if attended.output is not None:
        attended.output.mul_(sums.unsqueeze(-1).to(attended.output.dtype))
    if attended.weights is not None:
        # As given to the last bit: p is not always exp(ln p).
        shown = torch.where(attended.weights > 0, taken.given, 0.0) if masked else taken.given
        attended.weights = shown.to(plan.answer_dtype)
    used = sums[statistics.visible > 0]
    if used.numel() == 0:
        return None
    off = (used - 1).abs() > _SUM_TOLERANCE[plan.request.inputs.weights.dtype]
    low, high = torch.stack([used.min(), used.max()]).to(plan.compute_dtype).tolist()
    return low, high, int(off.sum())
