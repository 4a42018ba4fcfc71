"""QK-Clip: γ = min(1, τ / S_max) on a head's query-key products, and the largest τ that suffices.

Source: Kimi K2, arXiv 2507.20534, section 2.1, where τ = 100 and γ is split evenly between the
query and key weights of the head.
"""

import math
from typing import Any

import torch
from torch import Tensor

from service.diagnostics.evidence import QK_CLIP_THRESHOLD
from service.laboratory.numbers import finite
from service.laboratory.search import Found, round_towards
from service.laboratory.trial import Effect, Trial, beside_the_bias, heads_named


def clip_document(trial: Trial, temperatures: Found, limit: float) -> dict[str, Any]:
    """As the contract writes it. A γ on the products is a temperature of 1/γ for that head."""
    published = torch.where(
        trial.highest > QK_CLIP_THRESHOLD, QK_CLIP_THRESHOLD / trial.highest, 1.0
    )
    said = {"published_tau": QK_CLIP_THRESHOLD}
    if (reason := _undefined(trial)) is not None:
        nothing = dict.fromkeys(("published_reached", "output_change"))
        return {"reachable": False, **said, **nothing, "heads": [], "reason": reason}
    taus, gammas = _thresholds(trial, temperatures)
    own = trial.effect(temperature=1 / gammas)
    heads = [
        _head(trial, own, head, taus[head], float(gammas[head]), float(published[head]), limit)
        for head in range(trial.heads)
    ]
    missed = [entry["head"] for entry in heads if not entry["reachable"]]
    reachable = not missed
    why = f"no gamma reaches the target for {heads_named(missed)}{beside_the_bias(trial)}"
    return {
        "reachable": reachable,
        **({} if reachable else {"reason": why}),
        **said,
        "published_reached": all(trial.effect(temperature=1 / published).reached),
        "output_change": own.output_change if reachable else None,
        "heads": heads,
    }


def _undefined(trial: Trial) -> str | None:
    request = trial.bench.plan.request.mechanism
    if not trial.bench.plan.mechanism.scores_projected_products(request):
        return "QK-Clip shrinks products of query and key, which these scores are not"
    if request.qk_norm != "none":
        return "with qk_norm the size of query and key weights has no effect on the scores"
    return None


def _thresholds(trial: Trial, temperatures: Found) -> tuple[list[float | None], Tensor]:
    """τ and γ of each head; None and 1 where it needs none, or none reaches the target."""
    taus: list[float | None] = []
    gammas = torch.ones(trial.heads, dtype=torch.float64)
    wanted = trial.applied_temperatures(temperatures)
    for head, (highest, temperature) in enumerate(
        zip(trial.highest.tolist(), wanted.tolist(), strict=True)
    ):
        if temperature == 1 or highest <= 0 or not math.isfinite(highest):
            taus.append(None)
            continue
        tau = round_towards(highest / temperature, upwards=False)
        taus.append(tau)
        gammas[head] = min(1.0, tau / highest)
    return taus, gammas


def _head(
    trial: Trial,
    own: Effect,
    head: int,
    tau: float | None,
    gamma: float,
    published: float,
    limit: float,
) -> dict[str, Any]:
    reachable, highest = own.reached[head], float(trial.highest[head])
    entry = {
        "head": head,
        "reachable": reachable,
        "s_max": finite(highest),
        "tau": tau if reachable else None,
        "gamma": gamma if reachable else None,
        "published_gamma": published,
        "baseline": trial.before[head],
        "measured": own.figures[head] if reachable else None,
        "output_change": own.output_changes[head] if reachable else None,
    }
    if reachable:
        return entry
    why = f"not even a gamma of {1 / limit:.4g} reaches the target"
    if highest <= 0:
        why = "no scaled score is above 0, so that no threshold clips"
    return {**entry, "reason": why}
