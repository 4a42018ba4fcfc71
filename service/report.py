"""What the statistics of the rows say: diagnostics, verdict, theory and counts of an analysis."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from schemas.inputs import WeightInputs
from service import operands
from service.attention.second_pass import Revisited
from service.attention.streaming import Attended
from service.diagnostics import DIAGNOSTICS, Rows, evaluate
from service.diagnostics.aggregate import Aggregated, aggregate, aggregate_all, undefined
from service.diagnostics.evidence import Evidence, Setting, advice, evidence
from service.diagnostics.verdict import Counts, Level
from service.masks import CombinedMask
from service.masks.combined import count_visible
from service.masks.resolve import ResolvedMask
from service.mechanisms import MECHANISMS
from service.operands import Operands
from service.plan import Plan
from service.theory.panel import Measured, Panel, compare


@dataclass(frozen=True, slots=True)
class Verdict:
    """Levels of the whole and of each (batch, head), with what supports them."""

    level: Level | None
    heads: list[list[Level | None]]
    shares: dict[str, float | None]
    rows: int
    evidence: list[Evidence]
    advice: list[str]


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
    scale: float | None
    mask: ResolvedMask
    visible_keys: Aggregated
    numerics: Numerics
    tensors: dict[str, Tensor] = field(default_factory=dict)
    rows: dict[str, Tensor] = field(default_factory=dict)
    diagnostics: dict[str, Aggregated] = field(default_factory=dict)
    counts: Counts | None = None
    verdict: Verdict | None = None
    theory: Panel | None = None


def report(
    plan: Plan,
    taken: Operands,
    mask: ResolvedMask,
    scale: float | None,
    attended: Attended,
    again: Revisited,
    row_sums: tuple[float, float, int] | None,
) -> Analysis:
    """Diagnostics, verdict and theory: arithmetic on the statistics of the rows."""
    statistics = attended.statistics.to("cpu")
    if row_sums is not None:
        seen = count_visible(CombinedMask(mask.members), plan.shape)
        statistics.visible = torch.where(statistics.visible > 0, seen, 0.0)
    collected = plan.wanted.score_moments or scale is None
    rows = Rows.of(statistics, scale=None if collected else scale)
    numerics = Numerics(
        compute_dtype=operands.DTYPE_NAMES[plan.compute_dtype],
        fully_masked_rows=int((statistics.visible == 0).sum()),
        underflowed_weights=int(statistics.underflowed.sum()),
        overflowed_logits=int(statistics.overflowed.sum()),
        nonfinite_inputs=taken.nonfinite,
        near_forbidden=mask.near_forbidden,
        row_sums=row_sums,
    )
    visible = aggregate(rows.visible, "keys")
    analysis = Analysis(plan, scale, mask, visible, numerics)
    analysis.tensors = _tensors(attended, again)
    extra = {name: figures.cpu() for name, figures in again.rows.items()}
    if plan.wants_figures:
        _figures(analysis, rows, extra)
    else:
        analysis.rows = extra
        analysis.diagnostics = {n: aggregate(f, "1") for n, f in extra.items()}
    if "diagnostics" in plan.include:
        analysis.verdict = _verdict(analysis, again)
    if "theory" in plan.include:
        measured = _measured(plan, mask, rows)
        analysis.theory = compare(plan.shape, taken, measured, scale, plan.seeded)
    return analysis


def _measured(plan: Plan, mask: ResolvedMask, rows: Rows) -> Measured:
    nan = torch.full_like(rows.visible, float("nan"))
    return Measured(
        visible=rows.visible,
        score_mean=torch.where(rows.sound, rows.score_mean, nan),
        score_variance=torch.where(rows.sound, rows.score_variance, nan),
        entropy=DIAGNOSTICS["entropy"].per_row(rows),
        sum_of_squares=1 / DIAGNOSTICS["participation_ratio"].per_row(rows),
        masked=mask.members != (),
        reshaped=plan.request.mechanism.softcap is not None or plan.request.mask.bias is not None,
    )


def _tensors(attended: Attended, again: Revisited) -> dict[str, Tensor]:
    found = {
        "output": attended.output,
        "weights": attended.weights,
        "logits": attended.logits,
        "scores": attended.scores,
        "key_share": again.key_share,
    }
    return {name: tensor.cpu() for name, tensor in found.items() if tensor is not None}


def _figures(analysis: Analysis, rows: Rows, extra: dict[str, Tensor]) -> None:
    """Every diagnostic per row and aggregated, undefined with a reason where it does not follow."""
    shape, missing = analysis.plan.shape, _missing(analysis.plan)
    present = [d for d in DIAGNOSTICS.values() if d.needs not in missing]
    analysis.rows = {**evaluate(present, rows), **extra}
    units = {d.name: d.unit for d in present if d.aggregated} | dict.fromkeys(extra, "1")
    aggregated = aggregate_all({name: analysis.rows[name] for name in units}, units)
    for diagnostic in DIAGNOSTICS.values():
        if diagnostic.needs in missing:
            aggregated[diagnostic.name] = undefined(
                shape.batch, shape.heads, diagnostic.unit, missing[diagnostic.needs]
            )
    order = [d.name for d in DIAGNOSTICS.values() if d.aggregated] + list(extra)
    analysis.diagnostics = {name: aggregated[name] for name in order}


def _missing(plan: Plan) -> dict[str, str]:
    """What these inputs do not tell, and why."""
    if plan.from_products:
        return {}
    no_scores = f"inputs of kind {plan.request.inputs.kind} come after the scores"
    if isinstance(plan.request.inputs, WeightInputs):
        no_logits = "weights determine logits only up to a constant, and not where they are 0"
        return {"scores": no_scores, "logits": no_logits}
    return {"scores": no_scores}


def _verdict(analysis: Analysis, again: Revisited) -> Verdict:
    rows, plan = analysis.rows, analysis.plan
    counts = Counts.of(rows["max_weight"], rows["normalized_entropy"])
    analysis.counts = counts
    whole = counts.pooled(0, 1)
    level = whole.levels()[0]
    levels, heads = counts.levels(), plan.shape.heads
    found = evidence(rows, again.key_share, again.seen_by)
    by_name = {item.name: item.value for item in found}
    default = MECHANISMS[plan.request.mechanism.kind].default_scale(plan.shape)
    setting = Setting(
        level=level,
        scale=analysis.scale,
        default_scale=default if plan.from_products else None,
        logit_variance=_mean(rows.get("logit_variance")),
        largest_logit=by_name.get("logit_max"),
    )
    return Verdict(
        level=level,
        heads=[levels[start : start + heads] for start in range(0, len(levels), heads)],
        shares=whole.shares(),
        rows=int(whole.rows),
        evidence=found,
        advice=advice(setting),
    )


def _mean(figures: Tensor | None) -> float | None:
    if figures is None:
        return None
    if math.isfinite(mean := float(figures.mean())):
        return mean
    finite = figures[torch.isfinite(figures)]
    return float(finite.mean()) if finite.numel() else None
