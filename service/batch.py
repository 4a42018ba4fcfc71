"""Many analyses with the same plan as one: they share everything but their numbers.

Nothing depends on its companions: a unit of the pass never spans two batch items, so that each
answer has the bytes it has alone.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from schemas.mechanisms import LogLength
from schemas.parameters import SeededWeights
from service.analysis import attended_to, finish, placed
from service.attention.blocks import BLOCK_LOGITS
from service.attention.second_pass import Revisited
from service.errors import ServiceError
from service.extents import four
from service.masks import MASKS
from service.masks.resolve import ResolvedMask, resolve
from service.operands import Operands
from service.plan import Plan
from service.report import Analysis, conclude, tally
from service.runtime import Runtime
from service.scored import score

# What is summed over the whole request, or looks at its operands again, is computed for it alone.
_SHARED = frozenset(
    {
        "output",
        "weights",
        "diagnostics",
        "row_diagnostics",
        "logits",
        "scores",
        "key_share",
        "sparsity",
        "jacobian_spectral",
    }
)
_FULL_RANK = 4


def key_of(plan: Plan) -> Hashable:
    """Equal for plans that can be computed as one; None for one that must be alone.

    A request that fills a unit of the pass by itself gains nothing, and stacking would copy it.
    """
    request, mask = plan.request, plan.request.mask
    source = plan.mechanism.source(request.mechanism) if plan.scored else None
    alone = (
        not plan.scored
        or max(plan.shape.logits, _operand_elements(plan)) > BLOCK_LOGITS
        or not plan.include.names <= _SHARED
        or isinstance(request.mechanism.scale, LogLength)
        or not (source is None or isinstance(source, SeededWeights))
        or request.compute.nonfinite != "refuse"
    )
    if alone:
        return None
    return (
        request.mechanism.model_dump_json(),
        (mask.causal, mask.forbid_below, str(mask.window)),
        tuple(_form(tensor) for tensor in (mask.offset, mask.key_lengths)),
        tuple(_form(tensor) for tensor in (mask.allowed, mask.bias)),
        replace(plan.shape, batch=0),
        replace(plan.given_shape, batch=0),
        plan.answer_dtype,
        plan.include.names,
        plan.include.sparsity.threshold,
    )


def _operand_elements(plan: Plan) -> int:
    given = plan.given_shape
    return given.rows * (given.d_q or 0) + given.keys * ((given.d_k or 0) + (given.d_v or 0))


def _form(tensor: Tensor | None) -> Hashable:
    """What two tensors must have in common to be stacked along the batch."""
    if tensor is None:
        return None
    extents = tensor.shape[1:] if tensor.dim() == _FULL_RANK else tensor.shape[-3:]
    return (max(1, tensor.dim()), extents if tensor.dim() > 1 else (), tensor.dtype)


@torch.inference_mode()
def analyse_together(plans: Sequence[Plan], runtime: Runtime) -> list[Analysis | ServiceError]:
    """Analyse plans with an equal key: an analysis, or what is wrong with it, for each."""
    found = [_placed(plan, runtime) for plan in plans]
    members = [item for item in found if isinstance(item, _Member)]
    analyses = iter(_shared(members, runtime) if members else [])
    return [item if isinstance(item, ServiceError) else next(analyses) for item in found]


@dataclass(frozen=True, slots=True)
class _Member:
    plan: Plan
    taken: Operands
    mask: ResolvedMask


def _placed(plan: Plan, runtime: Runtime) -> _Member | ServiceError:
    try:
        return _Member(plan, *placed(plan, runtime))
    except ServiceError as error:
        return error


def _shared(members: Sequence[_Member], runtime: Runtime) -> list[Analysis]:
    plan, taken = _stacked(members)
    mask = resolve(
        plan.request.mask, plan.shape, MASKS, dtype=plan.compute_dtype, device=runtime.device
    )
    scored = score(plan, taken, mask, runtime)
    attended, again = attended_to(plan, mask, scored, runtime)
    finish(plan, scored, attended)
    tallied = tally(plan, mask, scored, attended, again, native=runtime.native)
    sizes = [member.plan.shape.batch for member in members]
    analyses = [
        conclude(member.plan, member.mask, scored, own, revisited)
        for member, own, revisited in zip(
            members, tallied.parts(sizes), _parts(again, sizes), strict=True
        )
    ]
    for analysis in analyses:
        analysis.pass_name = attended.pass_name
    return analyses


def _parts(again: Revisited, sizes: list[int]) -> list[Revisited]:
    """The shares of each request's keys; its figures per row are with the others."""
    if again.key_share is None or again.seen_by is None:
        return [Revisited()] * len(sizes)
    shares = again.key_share.split_with_sizes(sizes), again.seen_by.split_with_sizes(sizes)
    return list(map(Revisited, *shares))


def _stacked(members: Sequence[_Member]) -> tuple[Plan, Operands]:
    """One plan and one set of operands, the batch items one after the other."""
    first, count = members[0].plan, sum(member.plan.shape.batch for member in members)
    mask = first.request.mask.model_copy(update=_stacked_mask(members))
    plan = replace(
        first,
        request=first.request.model_copy(update={"mask": mask}),
        shape=replace(first.shape, batch=count),
        given_shape=replace(first.given_shape, batch=count),
    )
    taken = members[0].taken
    return plan, replace(
        taken,
        query=_joined([member.taken.query for member in members]),
        key=_joined([member.taken.key for member in members]),
        value=_joined([member.taken.value for member in members]),
    )


def _joined(tensors: Sequence[Tensor | None]) -> Tensor | None:
    present = [tensor for tensor in tensors if tensor is not None]
    return torch.cat(present) if present else None


def _stacked_mask(members: Sequence[_Member]) -> dict[str, Tensor]:
    """The mask tensors of all, each spread over its own batch items."""
    first = members[0].plan.request.mask
    names = [
        n for n in ("offset", "key_lengths", "allowed", "bias") if getattr(first, n) is not None
    ]
    return {name: torch.cat([_spread(name, member) for member in members]) for name in names}


def _spread(name: str, member: _Member) -> Tensor:
    shape, mask = member.plan.shape, member.plan.request.mask
    if name == "offset":
        return torch.tensor(member.mask.offsets)
    tensor: Tensor = getattr(mask, name)
    if name == "key_lengths":
        return tensor
    headed = tensor[None] if shape.query_rank == _FULL_RANK and tensor.dim() == 3 else four(tensor)
    return headed.expand(shape.batch, -1, -1, -1)
