"""The verdict of one analysis: levels, evidence, and what would mend it."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from service.attention.second_pass import Revisited
from service.diagnostics.evidence import Evidence, Setting, advice, evidence
from service.diagnostics.harms import harm_evidence
from service.diagnostics.verdict import OFF_SOFTMAX, REGIMES, Counts, Level
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
    rows: dict[str, Tensor],
    again: Revisited,
    gradients: Gradients | None,
) -> tuple[Counts | None, Verdict]:
    """The rows in each regime, and the verdict.

    Args:
        plan: the request.
        scored: the mechanism over its operands.
        rows: diagnostics per row (batch, heads, N).
        again: what a second pass collected.
        gradients: where they were included.
    """
    vanished = None if gradients is None else gradients.vanished_rows
    found = [
        *evidence(rows, again.key_share, again.seen_by),
        *harm_evidence(rows, vanished, plan.include.perturbation.relative_noise),
    ]
    if plan.normalizer.description.name == "sigmoid":
        # Its rows share no sum: a mean weight is no share, and what moves grows with their length.
        found = [item for item in found if item.name not in _OF_SHARES]
    heads = plan.shape.heads
    if plan.normalizer.description.name != "softmax":
        undecided: list[list[Level | None]] = [[None] * heads for _ in range(plan.shape.batch)]
        said = _advice(plan, scored, rows, None, found, [])
        none: dict[str, float | None] = dict.fromkeys(REGIMES)
        return None, Verdict(None, undecided, none, 0, found, said, OFF_SOFTMAX)
    counts = Counts.of(rows["max_weight"], rows["normalized_entropy"])
    whole = counts.pooled(0, 1)
    level = whole.levels()[0]
    levels = counts.levels()
    pooled = counts.pooled(0).levels()
    saturated = [h for h, own in enumerate(pooled) if own == "saturated" != level]
    verdict = Verdict(
        level=level,
        heads=[levels[start : start + heads] for start in range(0, len(levels), heads)],
        shares=whole.shares(),
        rows=int(whole.rows),
        evidence=found,
        advice=_advice(plan, scored, rows, level, found, saturated),
    )
    return counts, verdict


def _advice(
    plan: Plan,
    scored: Scored,
    rows: dict[str, Tensor],
    level: Level | None,
    found: list[Evidence],
    saturated_heads: list[int],
) -> list[str]:
    """What the mechanism has to say of its scores, then what follows from the figures."""
    request, values = plan.request.mechanism, {item.name: item.value for item in found}
    remark = None
    if plan.scored:
        remark = plan.mechanism.remark(request, plan.shape, lambda name: _mean(rows.get(name)))
    setting = Setting(
        level=level,
        scale=scored.scale if isinstance(scored.scale, float) else None,
        default_scale=scored.default_scale,
        default_is_root=_is_root(scored.default_scale, plan.shape.d_k),
        products=plan.mechanism.scores_projected_products(request),
        explained=remark is not None,
        saturated_heads=saturated_heads,
        logit_variance=_mean(rows.get("logit_variance")),
        largest_logit=values.get("logit_max"),
    )
    return [*([] if remark is None else [remark]), *advice(setting)]


def _is_root(scale: float | None, d_k: int | None) -> bool:
    return scale is not None and d_k is not None and math.isclose(scale, d_k**-0.5)


def _mean(figures: Tensor | None) -> float | None:
    if figures is None:
        return None
    if math.isfinite(mean := float(figures.mean())):
        return mean
    finite = figures[torch.isfinite(figures)]
    return float(finite.mean()) if finite.numel() else None
