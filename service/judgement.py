"""The verdict of one analysis: levels, evidence, and what would mend it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from service.attention.second_pass import Revisited
from service.diagnostics.aggregate import Aggregates, Numbers
from service.diagnostics.evidence import Evidence, Setting, advice, evidence
from service.diagnostics.harms import harm_evidence
from service.diagnostics.verdict import OFF_SOFTMAX, REGIMES, Counts, Level, level, shares
from service.harms import Gradients
from service.plan import Plan
from service.scored import Scored

_OF_SHARES = ("key_share", "perturbation_amplification")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Levels of the whole and of each (batch, head), with what supports them."""

    level: Level | None
    heads: list[list[Level | None]]
    shares: dict[str, float | None]
    rows: int
    evidence: list[Evidence]
    advice: list[str]
    reason: str | None = None


def judge(
    plan: Plan,
    scored: Scored,
    figures: Aggregates,
    regimes: Numbers | None,
    rows: Mapping[str, Tensor],
    again: Revisited,
    gradients: Gradients | None,
    *,
    near_forbidden: int,
) -> tuple[Counts | None, Verdict]:
    """The rows in each regime, and the verdict.

    Args:
        plan: the request.
        scored: the mechanism over its operands.
        figures: diagnostics per (batch, heads).
        regimes: the rows in each regime (4, batch, heads).
        rows: diagnostics per row (batch, heads, N).
        again: what a second pass collected.
        gradients: where they were included.
        near_forbidden: finite bias entries that were meant to hide a key.
    """
    vanished = None if gradients is None else gradients.vanished_rows
    found = [
        *evidence(figures, again.key_share, again.seen_by),
        *harm_evidence(figures, rows, vanished, plan.include.perturbation.relative_noise),
    ]
    if plan.normalizer.description.name == "sigmoid":
        # Its rows share no sum: a mean weight is no share, and what moves grows with their length.
        found = [item for item in found if item.name not in _OF_SHARES]
    heads = plan.shape.heads
    if plan.normalizer.description.name != "softmax" or regimes is None:
        undecided: list[list[Level | None]] = [[None] * heads for _ in range(plan.shape.batch)]
        said = _advice(plan, scored, figures, None, found, [], near_forbidden)
        none: dict[str, float | None] = dict.fromkeys(REGIMES)
        return None, Verdict(None, undecided, none, 0, found, said, OFF_SOFTMAX)
    heads_of = regimes.transpose(1, 2, 0).tolist()
    pooled = heads_of[0] if len(heads_of) == 1 else regimes.sum(1).T.tolist()
    whole = list(map(sum, zip(*pooled, strict=True)))
    verdict = Verdict(
        level=(total := level(*whole)),
        heads=[[level(*head) for head in item] for item in heads_of],
        shares=shares(*whole),
        rows=whole[-1],
        evidence=found,
        advice=_advice(
            plan,
            scored,
            figures,
            total,
            found,
            [h for h, own in enumerate(pooled) if level(*own) == "saturated" != total],
            near_forbidden,
        ),
    )
    return Counts.from_array(regimes), verdict


def _advice(
    plan: Plan,
    scored: Scored,
    figures: Aggregates,
    level: Level | None,
    found: list[Evidence],
    saturated_heads: list[int],
    near_forbidden: int,
) -> list[str]:
    """What the mechanism has to say of its scores, then what follows from the figures."""
    request, values = plan.request.mechanism, {item.name: item.value for item in found}
    remark = None
    if plan.scored:
        remark = plan.mechanism.remark(request, plan.shape, figures.mean)
    setting = Setting(
        level=level,
        scale=scored.scale if isinstance(scored.scale, float) else None,
        default_scale=scored.default_scale,
        default_is_root=_is_root(scored.default_scale, plan.shape.d_k),
        products=plan.mechanism.scores_projected_products(request),
        explained=remark is not None,
        saturated_heads=saturated_heads,
        logit_variance=figures.mean("logit_variance"),
        largest_logit=values.get("logit_max"),
        near_forbidden=near_forbidden,
    )
    return [*([] if remark is None else [remark]), *advice(setting)]


def _is_root(scale: float | None, d_k: int | None) -> bool:
    return scale is not None and d_k is not None and math.isclose(scale, d_k**-0.5)
