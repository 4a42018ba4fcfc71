"""Comparisons: the same inputs under several mechanisms, beside the first of them."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from schemas.attention import AttentionRequest
from schemas.comparisons import ComparisonRequest, Variant
from schemas.mechanisms import ScaledDotProduct
from service.analysis import analyse
from service.answer import part
from service.diagnostics.aggregate import Aggregated, pooled
from service.errors import DtypeMismatch, Invalid, InvalidMask, NonFinite
from service.estimate import Estimate, estimate, needs
from service.laboratory.bench import saturated_share
from service.laboratory.numbers import finite, plain, relative_change, relative_changes
from service.laboratory.recommendation import MOST_PASSES, recommend, unsuitable
from service.limits import Need
from service.plan import Plan, plan
from service.report import Analysis
from service.runtime import Runtime
from service.wire.answers import Part
from service.wire.validation import blaming

_INCLUDE = ("output", "diagnostics")
_SAID = ("mechanism", "shape", "diagnostics", "verdict", "numerics")


@dataclass(frozen=True, slots=True)
class Comparison:
    """A validated request, the plan of each variant, and what they cost together at most.

    With `tensors` the output and every row's figures of each variant are kept for the answer.
    """

    request: ComparisonRequest
    labels: tuple[str, ...]
    plans: tuple[Plan, ...]
    estimate: Estimate
    tensors: bool

    @property
    def needs(self) -> list[Need]:
        """What is compared with the limits."""
        return needs(self.plans, self.estimate)


def prepare_comparison(
    request: ComparisonRequest, *, threads: int, tensors: bool = False
) -> Comparison:
    """Plan every variant; `tensors` for an answer that holds those of each.

    Raises:
        ShapeMismatch, DtypeMismatch, Invalid: inputs and variants that do not fit together.
    """
    include = [*_INCLUDE, "row_diagnostics"] if tensors else [*_INCLUDE]
    variants = request.variants or _default_variants(request)
    numbered = enumerate(variants)
    plans = tuple(_plan(request, index, variant, include) for index, variant in numbered)
    total = Estimate(0, 0, 0, 0)
    for member in plans:
        cost = estimate(member, threads=threads, json=not tensors)
        total += replace(cost, answer_bytes=_shown_bytes(member, cost, tensors=tensors))
    if request.target is not None and unsuitable(plans[0], request.target) is None:
        searched = estimate(plans[0], threads=threads, json=True)
        said = 8192 + 1024 * plans[0].shape.heads
        total += replace(searched, flops=MOST_PASSES * searched.flops, answer_bytes=said)
    labels = tuple(variant.label for variant in variants)
    return Comparison(request, labels, plans, total, tensors)


def _shown_bytes(member: Plan, cost: Estimate, *, tensors: bool) -> int:
    """The diagnostics of a variant stand there twice, as they are and as changes.

    In JSON, without the output, which is compared only.
    """
    output = 0 if tensors else 2 * 16 * member.shape.output_elements
    return 2 * cost.answer_bytes - output


def _default_variants(request: ComparisonRequest) -> list[Variant]:
    if request.inputs.kind == "logits":
        sparse = ScaledDotProduct(normalizer="sparsemax")
        return [Variant(label="softmax"), Variant(label="sparsemax", mechanism=sparse)]
    unscaled = ScaledDotProduct(scale=1.0)
    return [Variant(label="scaled"), Variant(label="unscaled", mechanism=unscaled)]


def _plan(request: ComparisonRequest, index: int, variant: Variant, include: list[str]) -> Plan:
    asked = {
        "mechanism": variant.mechanism,
        "inputs": request.inputs,
        "mask": request.mask,
        "compute": request.compute,
        "include": include,
    }
    with _blaming_variant(index):
        return plan(AttentionRequest.model_validate(asked))


@contextmanager
def _blaming_variant(index: int) -> Iterator[None]:
    """What is invalid inside is said of this variant, unless the inputs or the mask are.

    By its number: an error repeats nothing that the caller wrote.
    """
    shared: Invalid | None = None
    with blaming(str(index), kind="variant", moved=("/mechanism", f"/variants/{index}/mechanism")):
        try:
            yield
        except (NonFinite, DtypeMismatch, InvalidMask) as error:
            if any(fault.pointer.startswith("/mechanism") for fault in error.faults):
                raise
            shared = error
    if shared is not None:
        raise shared


def run_comparison(name: str | None, comparison: Comparison, runtime: Runtime) -> Part:
    """Analyse the variants one after the other, then look for the mildest remedy.

    The answer of the group `name`; its tensors are `variants.<index>.output` and
    `variants.<index>.diagnostics.<name>` (batch, head, query), where they are kept.
    """
    baseline: Analysis | None = None
    variants: list[dict[str, Any]] = []
    shown: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    named = zip(comparison.labels, comparison.plans, strict=True)
    for index, (label, member) in enumerate(named):
        with _blaming_variant(index):
            found = analyse(member, runtime)
        baseline = baseline or found
        said = part(None, found)
        shown = shown or {name: said.document[name] for name in ("shape", "mask")}
        if comparison.tensors:
            tensors |= _tensors(f"variants.{index}.", said)
        variants.append({"label": label, **_compared(said, found, baseline)})
    document: dict[str, Any] = {**shown, "variants": variants}
    target = comparison.request.target
    if target is not None and baseline is not None:
        document |= recommend(comparison.plans[0], target, baseline, runtime)
    return Part(name, document, tensors, {})


def _tensors(prefix: str, said: Part) -> dict[str, Tensor]:
    rows = {f"diagnostics.{name}": figures for name, figures in said.rows.items()}
    return {f"{prefix}{name}": tensor for name, tensor in {**said.tensors, **rows}.items()}


def _compared(said: Part, found: Analysis, baseline: Analysis) -> dict[str, Any]:
    whole, heads = output_change(found, baseline)
    return {
        **{name: said.document[name] for name in _SAID},
        "saturated_share": plain(_shares(found)),
        "change": {
            name: _change(figure, baseline.diagnostics[name])
            for name, figure in found.diagnostics.items()
            if name in baseline.diagnostics
        },
        "output_change": whole,
        "output_change_heads": heads,
    }


def _shares(found: Analysis) -> Tensor:
    if found.counts is None:  # off softmax there are no regimes
        return torch.full((found.plan.shape.heads,), math.nan, dtype=torch.float64)
    return saturated_share(found.rows)


def _change(figure: Aggregated, baseline: Aggregated) -> dict[str, Any]:
    apart = pooled(figure.mean, figure.rows) - pooled(baseline.mean, baseline.rows)
    heads = None
    if figure.mean.shape == baseline.mean.shape:
        heads = [plain(row) for row in figure.mean.double() - baseline.mean.double()]
    return {"mean": finite(float(apart)), "heads": heads}


def output_change(
    found: Analysis, baseline: Analysis
) -> tuple[float | None, list[float | None] | None]:
    """‖output − baseline‖₂ / ‖baseline‖₂ over everything, and of each head."""
    own, other = found.tensors.get("output"), baseline.tensors.get("output")
    if own is None or other is None or own.shape != other.shape:
        return None, None
    whole = relative_change(own, other)
    if found.plan.shape.model is not None:
        return whole, None
    return whole, relative_changes(own, other)
