"""What saturation costs, measured: the gradient that arrives, and what small changes move."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from service import domains, seeds
from service.attention.gradients import Forward, PassGradients, backward
from service.attention.perturbation import move
from service.attention.statistics import RowStatistics
from service.mechanisms.base import Prepared
from service.operands import Operands
from service.plan import Plan
from service.runtime import Runtime
from service.scored import Scored

VANISHED = 0.1


@dataclass(frozen=True, slots=True)
class Gradients:
    """RMS of the gradients of ⟨g, output⟩ for g = randn of the output's shape.

    `inputs` by tensor: (batch, heads of that tensor). `projected` the same for the heads' own
    query, key and value, where the inputs are projected to heads. `closed_form` and
    `relative_to_uniform` (batch, heads) are of the heads' query, None with a reason;
    `vanished_rows` is the share of rows that get less than a tenth of what equal weights on all
    visible keys would give them, which the RMS of a few unsaturated rows would hide.
    """

    seed: int
    inputs: Mapping[str, Tensor]
    parameters: Mapping[str, float]
    projected: Mapping[str, Tensor] = field(default_factory=dict)
    closed_form: Tensor | None = None
    closed_form_reason: str | None = None
    relative_to_uniform: Tensor | None = None
    vanished_rows: Tensor | None = None
    relative_reason: str | None = None


def measure_gradients(
    plan: Plan,
    taken: Operands,
    scored: Scored,
    statistics: RowStatistics,
    output: Tensor,
    runtime: Runtime,
) -> Gradients:
    """Gradients on the inputs and learned weights; query, key and value count as three tensors.

    Args:
        plan: the request.
        taken: its operands.
        scored: the mechanism over them.
        statistics: of the rows.
        output: of the heads (batch, heads, N, d_v).
        runtime: where it runs.
    """
    with torch.inference_mode(mode=False), torch.enable_grad():
        leaves = _leaves(plan, taken, scored)
        prepared = plan.mechanism.prepare(
            plan.request.mechanism, leaves.operands, leaves.weights, plan.shape
        )
        drawn = _upstream(plan).to(device=runtime.device, dtype=plan.compute_dtype)
        on_weights, on_heads = _before_projection(plan, prepared, leaves, output, drawn)
    found = backward(
        _forward(plan, scored, statistics),
        on_heads,
        uniform=domains.relative_gradient(plan.request) is None,
        closed=_closed_form(plan) is None,
        shape=plan.shape,
        workers=runtime.workers,
        checkpoint=runtime.checkpoint,
    )
    with torch.inference_mode(mode=False), torch.enable_grad():
        on_inputs = _to_leaves(prepared, leaves, found)
    for name, gradient in on_inputs.items():
        if name in leaves.weights:
            before = on_weights.get(name)
            on_weights[name] = gradient if before is None else before + gradient
    own = {"query": found.query, "key": found.key, "value": found.value}
    return Gradients(
        seed=plan.include.gradients.seed,
        inputs={name: _rms(on_inputs[name]) for name in own},
        parameters={n: float(_pooled_rms(g)) for n, g in on_weights.items()},
        projected={n: _rms(g) for n, g in own.items()} if plan.shape.model is not None else {},
        closed_form=None if found.closed is None else _rms(found.closed),
        closed_form_reason=_closed_form(plan),
        relative_to_uniform=_relative(found),
        vanished_rows=_vanished(found, statistics),
        relative_reason=domains.relative_gradient(plan.request),
    )


def _closed_form(plan: Plan) -> str | None:
    """Why there is no closed form."""
    if not plan.include.gradients.closed_form:
        return "not asked for"
    return domains.closed_form(plan.request)


@dataclass(slots=True)
class _Leaves:
    """Copies of the operands and learned weights that gradients are taken on."""

    operands: Operands
    weights: dict[str, Tensor]

    @property
    def named(self) -> dict[str, Tensor]:
        """All of them."""
        own = {n: getattr(self.operands, n) for n in ("query", "key", "value")}
        return {**own, **self.weights}


def _leaves(plan: Plan, taken: Operands, scored: Scored) -> _Leaves:
    def leaf(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.clone().requires_grad_()

    operands = replace(taken, query=leaf(taken.query), key=leaf(taken.key), value=leaf(taken.value))
    wanted = [parameter.name for parameter in plan.parameters]
    weights = {n: scored.weights[n].clone().requires_grad_() for n in wanted if n in scored.weights}
    return _Leaves(operands, weights)


def _upstream(plan: Plan) -> Tensor:
    """Randn of the output's shape, at rank 4: a mechanism with its own heads has one output."""
    shape = plan.shape
    heads, dim = shape.heads, shape.d_v or 1
    if shape.model is not None:
        heads, dim = 1, shape.model.output_dim
    generator = seeds.generator(plan.include.gradients.seed, "upstream")
    return torch.randn(shape.batch, heads, shape.query_length, dim, generator=generator)


def _before_projection(
    plan: Plan, prepared: Prepared, leaves: _Leaves, output: Tensor, drawn: Tensor
) -> tuple[dict[str, Tensor], Tensor]:
    """Gradients on the weights behind the heads, and on the heads' output."""
    if prepared.finish is None:
        return {}, drawn
    heads = output.clone().to(plan.compute_dtype).requires_grad_()
    final = prepared.finish(heads)
    targets = {"": heads, **leaves.weights}
    found = torch.autograd.grad(final, list(targets.values()), drawn, allow_unused=True)
    named = {n: g for n, g in zip(targets, found, strict=True) if g is not None}
    return named, named.pop("")


def _forward(plan: Plan, scored: Scored, statistics: RowStatistics) -> Forward:
    prepared = scored.prepared
    if prepared is None:
        message = "gradients are of scores that are computed here"
        raise TypeError(message)
    return Forward(
        logits=scored.logits,
        scorer=prepared.scorer,
        weighing=plan.normalizer,
        statistics=statistics,
        query=prepared.query,
        key=prepared.key,
        value=prepared.value,
    )


def _to_leaves(prepared: Prepared, leaves: _Leaves, found: PassGradients) -> dict[str, Tensor]:
    """From the heads' operands back through the projections to the inputs and weights."""
    pairs = [
        (prepared.query, found.query),
        (prepared.key, found.key),
        (prepared.value, found.value),
    ]
    vector = leaves.weights.get("score_vector")
    if vector is not None and found.vector is not None:
        pairs.append((vector, found.vector))
    outputs, gradients = zip(*pairs, strict=True)
    # What was computed in inference mode cannot enter a graph; its copy can.
    given = [gradient.clone() for gradient in gradients]
    named = leaves.named
    got = torch.autograd.grad(outputs, list(named.values()), given, allow_unused=True)
    return {n: g for n, g in zip(named, got, strict=True) if g is not None}


def _rms(gradient: Tensor) -> Tensor:
    """Over length and dimension: (batch, heads, length, dim) to (batch, heads), float64."""
    return gradient.double().square().mean((-2, -1)).sqrt().cpu()


def _relative(found: PassGradients) -> Tensor | None:
    return None if found.uniform is None else _rms(found.query) / _rms(found.uniform)


def _vanished(found: PassGradients, statistics: RowStatistics) -> Tensor | None:
    """Share of the rows that see two keys, (batch, heads)."""
    if found.uniform is None:
        return None
    own, equal = (g.double().square().sum(-1).sqrt() for g in (found.query, found.uniform))
    several = (statistics.visible >= 2) & (statistics.overflowed == 0) & torch.isfinite(own)
    vanished = (own < VANISHED * equal) & several
    return (vanished.sum(-1) / several.sum(-1).double()).cpu()


def _pooled_rms(gradient: Tensor) -> Tensor:
    return gradient.double().square().mean().sqrt()


def perturb(
    plan: Plan,
    taken: Operands,
    scored: Scored,
    statistics: RowStatistics,
    runtime: Runtime,
) -> dict[str, Tensor]:
    """Figures per row of how far weights and outputs move with a noise on query and key.

    The noise is randn from the seed for query, then key, times relative_noise times the RMS of that
    tensor in its (batch, head); the value stays.
    """
    asked = plan.include.perturbation
    generator = seeds.generator(asked.seed, "noise")
    noisy = replace(
        taken,
        query=_noisy(taken.query, asked.relative_noise, generator),
        key=_noisy(taken.key, asked.relative_noise, generator),
    )
    prepared = plan.mechanism.prepare(plan.request.mechanism, noisy, scored.weights, plan.shape)
    value = scored.value
    if value is None:
        message = "what moves is the output of a value"
        raise TypeError(message)
    figures = move(
        scored.logits,
        replace(scored.logits, scorer=prepared.scorer),
        value,
        statistics,
        plan.normalizer,
        shape=plan.shape,
        workers=runtime.workers,
        checkpoint=runtime.checkpoint,
    )
    certified = domains.certificates(plan.request) is None
    return {n: f for n, f in figures.items() if certified or not n.endswith("_bound")}


def _noisy(tensor: Tensor | None, relative: float, generator: torch.Generator) -> Tensor | None:
    if tensor is None:
        return None
    noise = torch.randn(tensor.shape, generator=generator).to(tensor)
    rms = tensor.double().square().mean((-2, -1), keepdim=True).sqrt().to(tensor.dtype)
    return tensor + noise * (relative * rms)
