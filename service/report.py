"""What the statistics of the rows say: diagnostics, verdict, theory and counts of an analysis."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from schemas.inputs import WeightInputs
from service import domains, operands
from service.attention.collected import Attended
from service.attention.normalizing import FLUSHED
from service.attention.second_pass import Revisited
from service.diagnostics import DIAGNOSTICS, Diagnostic, Rows, evaluate
from service.diagnostics.aggregate import Aggregated, aggregate, aggregate_all, undefined
from service.diagnostics.included import INCLUDED
from service.diagnostics.verdict import Counts
from service.harms import Gradients
from service.judgement import Verdict, judge
from service.masks import CombinedMask
from service.masks.combined import count_visible
from service.masks.resolve import ResolvedMask
from service.operands import Operands
from service.plan import Plan
from service.scales import RowScale, Scale
from service.scored import Scored
from service.theory.panel import Measured, Panel, compare


@dataclass(frozen=True, slots=True)
class Numerics:
    """How it was computed, and what went wrong on the way."""

    compute_dtype: str
    fully_masked_rows: int
    underflowed_weights: int
    overflowed_logits: int
    nonfinite_inputs: int
    near_forbidden: int
    row_sums: tuple[float, float, int] | None = None

    @property
    def advice(self) -> list[str]:
        """What to do about the counts, in sentences."""
        said = []
        if self.near_forbidden:
            said.append(
                f"{self.near_forbidden:,} bias entries are finite but at or below -1e4: they count "
                "as visible keys and distort entropy and variance. Use minus infinity, or "
                "mask.forbid_below."
            )
        if self.overflowed_logits:
            said.append(
                f"{self.overflowed_logits:,} logits are infinite or NaN; their rows are in no "
                "figure. Check the size of query, key, scale and bias, or compute in float64."
            )
        if self.row_sums is not None and self.row_sums[2]:
            said.append(
                f"{self.row_sums[2]:,} rows of the given weights do not sum to 1 over the visible "
                "keys: output and weights are those given, the diagnostics those of the row over "
                "its sum."
            )
        return said


@dataclass(slots=True)
class Analysis:
    """Everything that one request asked for; tensors at rank 4, figures in float64."""

    plan: Plan
    scale: Scale | None
    mask: ResolvedMask
    visible_keys: Aggregated
    numerics: Numerics
    tensors: dict[str, Tensor] = field(default_factory=dict)
    rows: dict[str, Tensor] = field(default_factory=dict)
    diagnostics: dict[str, Aggregated] = field(default_factory=dict)
    counts: Counts | None = None
    verdict: Verdict | None = None
    theory: Panel | None = None
    gradients: Gradients | None = None
    pass_name: str = "eager"


@dataclass(slots=True)
class Tally:
    """What the rows say before anybody judges them.

    `counts` (3, batch): rows without a key, flushed weights, overflowed logits.
    """

    rows: Rows
    visible: Aggregated
    counts: Tensor
    tensors: dict[str, Tensor]
    figures: dict[str, Tensor] = field(default_factory=dict)
    diagnostics: dict[str, Aggregated] = field(default_factory=dict)

    def parts(self, sizes: list[int]) -> list["Tally"]:
        """The same of consecutive batch items, so many at a time; `rows` stay those of all."""
        visible, counts = list(self.visible.parts(sizes)), self.counts.split_with_sizes(sizes, 1)
        parts = [Tally(self.rows, *own, {}) for own in zip(visible, counts, strict=True)]
        for name, tensor in self.tensors.items():
            for part, own in zip(parts, tensor.split_with_sizes(sizes), strict=True):
                # A view would keep everybody's for as long as one of them is sent.
                part.tensors[name] = own.clone()
        for name, figure in self.figures.items():
            for part, own in zip(parts, figure.split_with_sizes(sizes), strict=True):
                part.figures[name] = own
        for name, aggregated in self.diagnostics.items():
            for part, one in zip(parts, aggregated.parts(sizes), strict=True):
                part.diagnostics[name] = one
        return parts


def tally(
    plan: Plan,
    mask: ResolvedMask,
    scored: Scored,
    attended: Attended,
    again: Revisited,
    *,
    given_sums: bool = False,
) -> Tally:
    """Every figure of the rows: arithmetic on their statistics.

    `given_sums`: the weights were given, so that a weight of 0 may stand at a key that is seen.
    """
    statistics = attended.statistics.to("cpu")
    if given_sums:
        seen = count_visible(CombinedMask(mask.members), plan.shape)
        statistics.visible = torch.where(statistics.visible > 0, seen, 0.0)
    scale = None if plan.wanted.score_moments else scored.scale
    rows = Rows.of(
        statistics,
        scale=None if isinstance(scale, RowScale) else scale,
        weighing=plan.normalizer,
        weight_sums=attended.weight_sums.cpu() if attended.weight_sums is not None else None,
        figures={name: figure.cpu() for name, figure in attended.figures.items()},
        constants={} if scored.prepared is None else scored.prepared.constants,
    )
    counts = torch.stack([statistics.visible == 0, _underflowed(attended), statistics.overflowed])
    visible = aggregate(rows.visible, "keys")
    tallied = Tally(rows, visible, counts.sum((2, 3)), _tensors(attended, again))
    extra = {name: figures.cpu() for name, figures in again.rows.items()}
    if plan.wants_figures:
        _figures(plan, tallied, extra)
    else:
        tallied.figures = extra
        tallied.diagnostics = {n: aggregate(f, INCLUDED[n].unit) for n, f in extra.items()}
    tallied.diagnostics |= _undefined(plan)
    return tallied


def conclude(
    plan: Plan,
    mask: ResolvedMask,
    scored: Scored,
    tallied: Tally,
    again: Revisited,
    *,
    row_sums: tuple[float, float, int] | None = None,
    gradients: Gradients | None = None,
) -> Analysis:
    """Counts and verdict of one request."""
    masked, underflowed, overflowed = (int(count) for count in tallied.counts.sum(1).tolist())
    numerics = Numerics(
        compute_dtype=operands.DTYPE_NAMES[plan.compute_dtype],
        fully_masked_rows=masked,
        underflowed_weights=underflowed,
        overflowed_logits=overflowed,
        nonfinite_inputs=scored.nonfinite,
        near_forbidden=mask.near_forbidden,
        row_sums=row_sums,
    )
    analysis = Analysis(plan, scored.scale, mask, tallied.visible, numerics)
    analysis.tensors, analysis.gradients = tallied.tensors, gradients
    analysis.rows, analysis.diagnostics = tallied.figures, tallied.diagnostics
    if "diagnostics" in plan.include:
        analysis.counts, analysis.verdict = judge(plan, scored, analysis.rows, again, gradients)
    return analysis


def theorise(
    plan: Plan, taken: Operands, scored: Scored, mask: ResolvedMask, rows: Rows
) -> Panel | None:
    """What independent normal entries would give, beside the measurement."""
    factor = scored.scale.factors if isinstance(scored.scale, RowScale) else scored.scale
    return compare(plan.shape, taken, _measured(plan, mask, rows), factor, plan.seeded)


def _underflowed(attended: Attended) -> Tensor:
    if attended.weight_sums is not None:
        return attended.weight_sums[FLUSHED].cpu()
    return attended.statistics.underflowed.cpu()


def _measured(plan: Plan, mask: ResolvedMask, rows: Rows) -> Measured:
    nan = torch.full_like(rows.visible, float("nan"))
    return Measured(
        visible=rows.visible,
        score_mean=torch.where(rows.sound, rows.score_mean, nan),
        score_variance=torch.where(rows.sound, rows.score_variance, nan),
        entropy=DIAGNOSTICS["entropy"].per_row(rows),
        sum_of_squares=1 / DIAGNOSTICS["participation_ratio"].per_row(rows),
        masked=mask.members != (),
        reshaped=_reshaped(plan),
    )


def _reshaped(plan: Plan) -> str | None:
    if plan.request.mechanism.softcap is not None or plan.request.mask.bias is not None:
        return "a softcap or a bias makes the logits other than normal"
    name = plan.normalizer.description.name
    return None if name == "softmax" else f"the predictions are of softmax rows, not of {name}"


def _tensors(attended: Attended, again: Revisited) -> dict[str, Tensor]:
    found = {
        "output": attended.output,
        "weights": attended.weights,
        "logits": attended.logits,
        "scores": attended.scores,
        "key_share": again.key_share,
    }
    return {name: tensor.cpu() for name, tensor in found.items() if tensor is not None}


def _figures(plan: Plan, tallied: Tally, extra: dict[str, Tensor]) -> None:
    """Every diagnostic per row and aggregated, undefined with a reason where it does not follow."""
    shape = plan.shape
    offered = [d for d in DIAGNOSTICS.values() if _offered(d, plan, tallied.rows)]
    missing = {d.name: reason for d in offered if (reason := _missing(d, plan))}
    present = [d for d in offered if d.name not in missing]
    tallied.figures = {**evaluate(present, tallied.rows), **extra}
    units = {d.name: d.unit for d in present if d.aggregated} | {
        name: INCLUDED[name].unit for name in extra
    }
    aggregated = aggregate_all({name: tallied.figures[name] for name in units}, units)
    for diagnostic in offered:
        if diagnostic.name in missing:
            aggregated[diagnostic.name] = undefined(
                shape.batch, shape.heads, diagnostic.unit, missing[diagnostic.name]
            )
    order = [d.name for d in offered if d.aggregated] + list(extra)
    tallied.diagnostics = {name: aggregated[name] for name in order}


def _undefined(plan: Plan) -> dict[str, Aggregated]:
    """Included figures that this request does not define, with the reason."""
    reasons = {
        "jacobian_spectral": domains.jacobian_spectral,
        "flip_margin": domains.flip_margin,
        "perturbation_l1_bound": domains.certificates,
        "perturbation_l2_bound": domains.certificates,
    }
    found = {}
    for name, domain in reasons.items():
        figure, reason = INCLUDED[name], domain(plan.request)
        if figure.include in plan.include and reason is not None:
            found[name] = undefined(plan.shape.batch, plan.shape.heads, figure.unit, reason)
    return found


def _offered(diagnostic: Diagnostic, plan: Plan, rows: Rows) -> bool:
    """Whether the answer names it at all."""
    if diagnostic.needs == "hidden":
        return bool(rows.figures)
    name = plan.normalizer.description.name
    return not (diagnostic.trivial_for_softmax and name == "softmax")


def _missing(diagnostic: Diagnostic, plan: Plan) -> str | None:
    """Why these inputs, or this normaliser, do not give it."""
    kind = plan.request.inputs.kind
    if not plan.scored and diagnostic.needs == "scores":
        return f"inputs of kind {kind} come after the scores"
    if isinstance(plan.request.inputs, WeightInputs) and diagnostic.needs == "logits":
        return "weights determine logits only up to a constant, and not where they are 0"
    name = plan.normalizer.description.name
    if diagnostic.normalizers is not None and name not in diagnostic.normalizers:
        return f"defined for {diagnostic.listed_normalizers}, not for {name}"
    return None
