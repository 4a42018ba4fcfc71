"""What the statistics of the rows say: diagnostics, verdict, theory and counts of an analysis."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from service import domains, operands
from service.attention.collected import Attended
from service.attention.native.library import Native
from service.attention.second_pass import Revisited
from service.diagnostics import DIAGNOSTICS, Rows
from service.diagnostics.aggregate import (
    Aggregated,
    Aggregates,
    Numbers,
    aggregate_all,
    undefined,
)
from service.diagnostics.included import INCLUDED
from service.diagnostics.offer import Offer, offer
from service.diagnostics.summary import Material, RowFigures, count_rows, summarise
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
    """Everything that one request asked for; tensors at rank 4, figures in float64.

    `visible`: how many keys the rows see.
    """

    plan: Plan
    scale: Scale | None
    mask: ResolvedMask
    visible: Aggregates
    numerics: Numerics
    tensors: dict[str, Tensor] = field(default_factory=dict)
    rows: Mapping[str, Tensor] = field(default_factory=dict)
    diagnostics: Mapping[str, Aggregated] = field(default_factory=dict)
    counts: Counts | None = None
    verdict: Verdict | None = None
    theory: Panel | None = None
    gradients: Gradients | None = None
    pass_name: str = "eager"


@dataclass(slots=True)
class Tally:
    """What the rows say before anybody judges them.

    `counts` and `regimes` as in `Summary`; `visible` how many keys the rows see.
    """

    material: Material
    visible: Aggregates
    counts: Numbers
    tensors: dict[str, Tensor]
    figures: RowFigures
    diagnostics: Aggregates
    regimes: Numbers | None

    @property
    def rows(self) -> Rows:
        """What the figures were computed from."""
        return self.material.rows()

    def parts(self, sizes: list[int]) -> Iterator["Tally"]:
        """The same of consecutive batch items, so many at a time."""
        # A view would keep everybody's for as long as one of them is sent.
        tensors = {
            name: [own.clone() for own in tensor.split_with_sizes(sizes)]
            for name, tensor in self.tensors.items()
        }
        end = 0
        for index, size in enumerate(sizes):
            items, end = slice(end, end + size), end + size
            yield Tally(
                self.material,
                self.visible.part(items),
                self.counts[:, items],
                {name: parts[index] for name, parts in tensors.items()},
                self.figures.part(items),
                self.diagnostics.part(items),
                None if self.regimes is None else self.regimes[:, items],
            )


def tally(
    plan: Plan,
    mask: ResolvedMask,
    scored: Scored,
    attended: Attended,
    again: Revisited,
    *,
    given_sums: bool = False,
    native: Native | None = None,
) -> Tally:
    """Every figure of the rows: arithmetic on their statistics, by `native` where it is there.

    `given_sums`: the weights were given, so that a weight of 0 may stand at a key that is seen.
    """
    statistics = attended.statistics
    if given_sums:
        seen = count_visible(CombinedMask(mask.members), plan.shape).to(statistics.visible.device)
        statistics = replace(statistics, visible=torch.where(statistics.visible > 0, seen, 0.0))
    scale = None if plan.wanted.score_moments else scored.scale
    material = Material.of(
        statistics,
        scale=None if isinstance(scale, RowScale) else scale,
        weighing=plan.normalizer,
        weight_sums=attended.weight_sums,
        figures=attended.figures,
        constants={} if scored.prepared is None else scored.prepared.constants,
    )
    further = {name: figures.cpu() for name, figures in again.rows.items()}
    tensors = _tensors(attended, again)
    if not plan.wants_figures:
        own = undefined(plan.shape.batch, plan.shape.heads, {}, {})
        if further:
            own = aggregate_all(further, {name: INCLUDED[name].unit for name in further})
        figures = RowFigures((), material, further)
        visible, counts = _visible(material), count_rows(material)
        return Tally(material, visible, counts, tensors, figures, _undefined(plan, own), None)
    offered = offer(
        plan.request.inputs.kind, plan.normalizer.description.name, hidden=bool(material.figures)
    )
    return _figured(plan, material, offered, further, tensors, native)


def _figured(
    plan: Plan,
    material: Material,
    offered: Offer,
    further: dict[str, Tensor],
    tensors: dict[str, Tensor],
    native: Native | None,
) -> Tally:
    """With every diagnostic, undefined with a reason where it does not follow."""
    keep = "row_diagnostics" in plan.include
    summary = summarise(offered.members, material, keep=keep, native=native)
    own = offered.aggregates(summary.sums)
    diagnostics = own
    if further:
        diagnostics = own.with_others(
            aggregate_all(further, {name: INCLUDED[name].unit for name in further})
        )
    return Tally(
        material,
        own.only("visible_keys"),
        summary.counts,
        tensors,
        RowFigures(offered.members, material, further, summary.figures),
        _undefined(plan, diagnostics),
        summary.regimes,
    )


def _visible(material: Material) -> Aggregates:
    return aggregate_all(
        {"visible_keys": torch.from_numpy(material.columns.visible)}, {"visible_keys": "keys"}
    )


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
    masked, underflowed, overflowed = np.add.reduce(tallied.counts, (1, 2)).tolist()
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
        analysis.counts, analysis.verdict = judge(
            plan,
            scored,
            tallied.diagnostics,
            tallied.regimes,
            tallied.figures,
            again,
            gradients,
            near_forbidden=mask.near_forbidden,
        )
    return analysis


def theorise(
    plan: Plan, taken: Operands, scored: Scored, mask: ResolvedMask, rows: Rows
) -> Panel | None:
    """What independent normal entries would give, beside the measurement."""
    factor = scored.scale.factors if isinstance(scored.scale, RowScale) else scored.scale
    return compare(plan.shape, taken, _measured(plan, mask, rows), factor, plan.seeded)


def _measured(plan: Plan, mask: ResolvedMask, rows: Rows) -> Measured:
    entropy, participation = (
        DIAGNOSTICS[name].per_row(rows) for name in ("entropy", "participation_ratio")
    )
    mean, variance = (
        torch.from_numpy(np.where(rows.sound, figure, np.nan))
        for figure in (rows.score_mean, rows.score_variance)
    )
    return Measured(
        visible=torch.from_numpy(rows.visible),
        score_mean=mean,
        score_variance=variance,
        entropy=entropy,
        sum_of_squares=1 / participation,
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


def _undefined(plan: Plan, found: Aggregates) -> Aggregates:
    """With the included figures that this request does not define, and the reason."""
    reasons = {
        "jacobian_spectral": domains.jacobian_spectral,
        "flip_margin": domains.flip_margin,
        "perturbation_l1_bound": domains.certificates,
        "perturbation_l2_bound": domains.certificates,
    }
    missing = {
        name: reason
        for name, domain in reasons.items()
        if INCLUDED[name].include in plan.include and (reason := domain(plan.request)) is not None
    }
    if not missing:
        return found
    units = {name: INCLUDED[name].unit for name in missing}
    return found.with_others(undefined(plan.shape.batch, plan.shape.heads, units, missing))
