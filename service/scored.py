"""A mechanism over its operands, up to the normaliser."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from schemas.inputs import WeightInputs
from service import operands, parameters
from service.attention.logits import Logits
from service.masks import CombinedMask
from service.masks.resolve import ResolvedMask
from service.mechanisms.base import Prepared
from service.mechanisms.given import GivenLogits, GivenWeights
from service.operands import Operands
from service.plan import Plan
from service.runtime import Runtime
from service.scales import Scale, factor_of, resolve_scale


@dataclass(frozen=True, slots=True)
class Scored:
    """Logits and value of the heads, and what is known of them beforehand.

    `prepared` is None where logits or weights are given, `scale` too; `weights` are the learned
    ones.
    """

    logits: Logits
    value: Tensor | None
    scale: Scale | None
    default_scale: float | None
    nonfinite: int
    prepared: Prepared | None = None
    weights: Mapping[str, Tensor] = field(default_factory=dict)


def score(plan: Plan, taken: Operands, mask: ResolvedMask, runtime: Runtime) -> Scored:
    """Draw or take the learned weights, project, and make the score function.

    Raises:
        NonFinite, Invalid: what only the tensors themselves tell.
    """
    if taken.given is not None:
        return _given(plan, taken, taken.given, mask)
    request = plan.request
    member, mechanism = plan.mechanism, request.mechanism
    weights, nonfinite = parameters.prepare(
        plan.parameters,
        member.source(mechanism),
        dtype=plan.compute_dtype,
        device=runtime.device,
        refuse=request.compute.nonfinite == "refuse",
    )
    prepared = member.prepare(mechanism, taken, weights, plan.shape)
    default = member.default_scale(mechanism, plan.shape)
    visibility = CombinedMask(mask.members)
    scale = resolve_scale(mechanism.scale, default, visibility, plan.shape)
    factor = factor_of(scale, plan.compute_dtype, runtime.device)
    logits = Logits(prepared.scorer, visibility, factor, mechanism.softcap)
    nonfinite += taken.nonfinite
    return Scored(logits, prepared.value, scale, default, nonfinite, prepared, weights)


def _given(plan: Plan, taken: Operands, tensor: Tensor, mask: ResolvedMask) -> Scored:
    """Logits or weights that a framework computed."""
    given: GivenLogits | GivenWeights = GivenLogits(tensor)
    if isinstance(plan.request.inputs, WeightInputs):
        operands.check_weights(tensor)
        given = GivenWeights(tensor)
    logits = Logits(given, CombinedMask((*mask.members, given)), None, None)
    return Scored(logits, taken.value, None, None, taken.nonfinite)
