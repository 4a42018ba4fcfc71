"""One analysis, from request to verdict: the story, top to bottom."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from schemas.inputs import TensorInputs, WeightInputs
from schemas.masks import Mask
from service import operands
from service.attention.collected import Attended, Precision
from service.attention.normalizing import Exponential
from service.attention.second_pass import Flips, Revisited, revisit
from service.attention.streaming import attend
from service.harms import Gradients, measure_gradients, perturb
from service.masks import MASKS, CombinedMask
from service.masks.resolve import ResolvedMask, resolve
from service.operands import Operands
from service.plan import Plan
from service.report import Analysis, conclude, tally, theorise
from service.runtime import Runtime
from service.scored import Scored, score

_UNMASKED = Mask()
_SUM_TOLERANCE = {
    torch.float64: 1e-9,
    torch.float32: 1e-4,
    torch.float16: 1e-2,
    torch.bfloat16: 5e-2,
}


@torch.inference_mode()
def analyse(plan: Plan, runtime: Runtime) -> Analysis:
    """Run one analysis.

    Raises:
        NonFinite, Invalid, InvalidMask: what only the tensors themselves tell.
    """
    later = _tells_nonfinite(plan, runtime)
    taken, mask, scored = set_up(plan, runtime, later=later)
    doubt = partial(operands.refuse_nonfinite, plan.request.inputs) if later else None
    attended, again = attended_to(plan, mask, scored, runtime, doubt=doubt)
    gradients = _harms(plan, taken, scored, attended, again, runtime)
    finish(plan, scored, attended)
    row_sums = _restore_weights(plan, taken, attended, masked=mask.members != ())
    tallied = tally(
        plan, mask, scored, attended, again, given_sums=row_sums is not None, native=runtime.native
    )
    analysis = conclude(plan, mask, scored, tallied, again, row_sums=row_sums, gradients=gradients)
    analysis.pass_name = attended.pass_name
    if "theory" in plan.include:
        analysis.theory = theorise(plan, taken, scored, mask, tallied.rows)
    return analysis


def attended_to(
    plan: Plan,
    mask: ResolvedMask,
    scored: Scored,
    runtime: Runtime,
    *,
    doubt: Callable[[], None] | None = None,
) -> tuple[Attended, Revisited]:
    """The pass over all rows, and the second one where it is asked for; `doubt` as in `attend`."""
    attended = attend(
        scored.logits,
        scored.value,
        plan.normalizer,
        shape=plan.shape,
        wanted=plan.wanted,
        precision=_precision(plan, scored),
        device=runtime.device,
        workers=runtime.workers,
        checkpoint=runtime.checkpoint,
        native=runtime.native,
        doubt=doubt,
    )
    return attended, _second(plan, scored, mask, attended, runtime)


def _tells_nonfinite(plan: Plan, runtime: Runtime) -> bool:
    """Whether NaN and infinity in any operand must show in what the compiled pass computes.

    A look of its own at every operand takes a tenth of a small analysis. In a plain product of all
    queries with all keys none can hide: each leaves a logit or an output that is not finite. A
    softcap would make a number of infinity.
    """
    request = plan.request
    mechanism = request.mechanism
    plain = isinstance(request.inputs, TensorInputs) and mechanism.qk_norm == "none"
    return (
        plain
        and mechanism.softcap is None
        and request.compute.nonfinite == "refuse"
        and runtime.pass_name == "native"
        and plan.mechanism.scores_products(mechanism)
        and isinstance(plan.normalizer, Exponential)
        and "output" in plan.include
        and request.mask == _UNMASKED
    )


def set_up(
    plan: Plan, runtime: Runtime, *, later: bool = False
) -> tuple[Operands, ResolvedMask, Scored]:
    """All that comes before the pass: operands, masks, and the mechanism over them.

    `later`: NaN and infinity are left to whoever looks at what comes out.

    Raises:
        NonFinite, Invalid, InvalidMask: what only the tensors themselves tell.
    """
    taken, mask = placed(plan, runtime, later=later)
    return taken, mask, score(plan, taken, mask, runtime)


def placed(plan: Plan, runtime: Runtime, *, later: bool = False) -> tuple[Operands, ResolvedMask]:
    """Operands and masks, checked (but for NaN and infinity, where `later`) and on the device.

    Raises:
        NonFinite, InvalidMask: what only the tensors themselves tell.
    """
    request, compute = plan.request, plan.request.compute
    taken = operands.prepare(
        request.inputs,
        plan.given_shape,
        cast=compute.dtype,
        device=runtime.device,
        nonfinite=compute.nonfinite,
        later=later,
    )
    taken = replace(taken, checkpoint=runtime.checkpoint)
    mask = resolve(request.mask, plan.shape, MASKS, dtype=plan.compute_dtype, device=runtime.device)
    return taken, mask


def _precision(plan: Plan, scored: Scored) -> Precision:
    """What is computed with once more is not rounded before."""
    again = "gradients" in plan.include or _finishes(scored)
    output = plan.compute_dtype if again else plan.answer_dtype
    return Precision(plan.compute_dtype, output, plan.answer_dtype)


def _finishes(scored: Scored) -> bool:
    return scored.prepared is not None and scored.prepared.finish is not None


def _harms(
    plan: Plan,
    taken: Operands,
    scored: Scored,
    attended: Attended,
    again: Revisited,
    runtime: Runtime,
) -> Gradients | None:
    """Gradients, and the figures per row of a perturbation, where they are included."""
    statistics = attended.statistics
    if "perturbation" in plan.include:
        again.rows |= perturb(plan, taken, scored, statistics, runtime)
    if "gradients" not in plan.include or attended.output is None:
        return None
    return measure_gradients(plan, taken, scored, statistics, attended.output, runtime)


def finish(plan: Plan, scored: Scored, attended: Attended) -> None:
    """From the heads' output to the mechanism's, in the answer's dtype."""
    if attended.output is None:
        return
    if "output" not in plan.include:
        attended.output = None
        return
    if scored.prepared is not None and scored.prepared.finish is not None:
        attended.output = scored.prepared.finish(attended.output)
    attended.output = attended.output.to(plan.answer_dtype)


def _second(
    plan: Plan, scored: Scored, mask: ResolvedMask, attended: Attended, runtime: Runtime
) -> Revisited:
    second, logits = plan.second, scored.logits
    if plan.wants_flips and scored.prepared is not None and logits.scale is not None:
        second = replace(second, flips=Flips(scored.prepared.key, logits.scale))
    if not second.anything:
        return Revisited()
    if isinstance(plan.request.inputs, WeightInputs):
        # A given weight of 0 has no logit for the sums, but its key is seen all the same.
        logits = replace(logits, visibility=CombinedMask(mask.members))
    return revisit(
        logits,
        attended.statistics,
        second,
        plan.normalizer,
        shape=plan.shape,
        dtype=plan.compute_dtype,
        device=runtime.device,
        workers=runtime.workers,
        checkpoint=runtime.checkpoint,
        native=runtime.native,
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
