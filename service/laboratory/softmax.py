"""Softmax under the lens: one analysis of given logits, and the Jacobian of each row."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from schemas.attention import AttentionRequest
from schemas.inputs import LogitInputs
from schemas.softmax import MOST_JACOBIAN_KEYS, SoftmaxRequest
from service.analysis import analyse
from service.answer import part
from service.errors import Invalid, NonFinite, ShapeMismatch
from service.estimate import Estimate, estimate, needs
from service.extents import four
from service.limits import Need
from service.plan import Plan, plan
from service.runtime import Runtime
from service.wire.answers import Part

_SAID = ("diagnostics", "verdict", "numerics")


@dataclass(frozen=True, slots=True)
class SoftmaxJob:
    """A validated request, the analysis it comes to, and what that costs at most."""

    request: SoftmaxRequest
    plan: Plan
    estimate: Estimate

    @property
    def needs(self) -> list[Need]:
        """What is compared with the limits."""
        return needs([self.plan], self.estimate)


def prepare_softmax(request: SoftmaxRequest, *, threads: int, json: bool) -> SoftmaxJob:
    """Plan the analysis.

    Raises:
        ShapeMismatch, Invalid: logits without an axis, or too many keys for Jacobians.
        NonFinite: NaN or +∞.
    """
    logits: Tensor = request.logits
    if logits.dim() not in (1, 2, 3, 4) or 0 in logits.shape:
        raise ShapeMismatch(
            f"logits must have rank 1 (key) to 4 (batch, head, query, key) and no empty axis; "
            f"found shape {list(logits.shape)}",
            pointer="/logits",
        )
    _refuse_nonfinite(logits)
    keys = logits.shape[-1]
    if request.jacobian and keys > MOST_JACOBIAN_KEYS:
        raise Invalid(
            f"jacobian takes logits of at most {MOST_JACOBIAN_KEYS} keys; found {keys}",
            pointer="/jacobian",
        )
    inputs = LogitInputs(kind="logits", logits=logits if logits.dim() > 1 else logits[None])
    include = ["weights", "diagnostics", "row_diagnostics"]
    member = plan(AttentionRequest.model_validate({"inputs": inputs, "include": include}))
    cost = estimate(member, threads=threads, json=json)
    if request.jacobian:
        cost += _jacobian_cost(member, json=json)
    return SoftmaxJob(request, member, cost)


def _refuse_nonfinite(logits: Tensor) -> None:
    bad = torch.isnan(logits) | (logits == float("inf"))
    if bool(bad.any()):
        raise NonFinite(
            f"logits hold {int(bad.sum()):,} NaN or +∞ values, the first at "
            f"{bad.nonzero()[0].tolist()}; expected finite numbers or −∞ (null in JSON)",
            pointer="/logits",
        )


def _jacobian_cost(member: Plan, *, json: bool) -> Estimate:
    """A float64 matrix a row while it is made, and one in the answer's dtype."""
    elements = member.shape.logits * member.shape.key_length
    return Estimate(3 * elements, 20 * elements, 8 * elements, elements * (26 if json else 8))


def run_softmax(job: SoftmaxJob, runtime: Runtime) -> Part:
    """Weights and figures of every row, and its Jacobian where that is asked for."""
    found = part(None, analyse(job.plan, runtime))
    rank = job.request.logits.dim()
    weights = found.tensors["weights"]
    tensors = {"weights": weights if rank > 1 else weights[0]}
    if job.request.jacobian:
        tensors["jacobian"] = jacobian(tensors["weights"])
    document = {name: found.document[name] for name in _SAID}
    return replace(found, document=document, tensors=tensors)


def jacobian(weights: Tensor) -> Tensor:
    """diag(p) − p pᵀ over the last axis, (…, keys, keys), in the dtype of the weights.

    The diagonal is p_i · Σ_{j≠i} p_j, with the largest weight's others summed apart: p − p² would
    lose every digit where a row is nearly one-hot.
    """
    wide = four(weights).double() if weights.dim() > 1 else weights.double()
    at = wide.argmax(-1, keepdim=True)
    others = wide.scatter(-1, at, 0.0)
    rest = (wide.sum(-1, keepdim=True) - wide).scatter(-1, at, others.sum(-1, keepdim=True))
    found = wide.unsqueeze(-1) * -wide.unsqueeze(-2)
    found.diagonal(dim1=-2, dim2=-1).copy_(wide * rest)
    found.add_(0.0)  # no key of weight 0 has a −0
    return found.to(weights.dtype).view(*weights.shape, weights.shape[-1])
