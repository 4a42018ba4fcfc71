"""The mildest temperature, softcap and QK-clip under which every head reaches a target."""

from typing import Any

from schemas.comparisons import Target
from service.laboratory.bench import Aim, Bench
from service.laboratory.clipping import clip_document
from service.laboratory.remedies import remedy_document, softcap_of, temperature_of
from service.laboratory.search import GRID
from service.laboratory.trial import Trial, heads_named
from service.plan import Plan
from service.report import Analysis
from service.runtime import Runtime

# Two walks along the grid, each bisected at most 22 times (scores up to float64's largest), what is
# measured before, and what is verified after: counted by a test.
MOST_PASSES = 2 * (GRID + 22) + 32


def unsuitable(member: Plan, target: Target) -> str | None:
    """Why nothing can be recommended for this baseline."""
    mechanism = member.request.mechanism
    if not member.scored:
        return "inputs of kind logits come after scale and softcap, which are what is searched"
    if target.saturated_share_max is not None and mechanism.normalizer != "softmax":
        return (
            "saturated rows are those of softmax; the baseline's normalizer is "
            f"{mechanism.normalizer}"
        )
    return None


def _overflow(heads: list[int]) -> str:
    return (
        f"logits of {heads_named(heads)} overflow, and their rows are in no figure "
        "(numerics.overflowed_logits): check the size of query, key and scale, or compute in "
        "float64"
    )


def recommend(member: Plan, target: Target, baseline: Analysis, runtime: Runtime) -> dict[str, Any]:
    """The recommendation for the baseline, or the reason why there is none."""
    if (reason := unsuitable(member, target)) is not None:
        return {"recommendation": None, "reason": reason}
    trial = Trial(Aim.of(target), Bench(member, runtime))
    if trial.overflowing:
        return {"recommendation": None, "reason": _overflow(trial.overflowing)}
    temperatures, hottest = trial.temperatures()
    softcaps, tightest = trial.softcaps()
    temperature = temperature_of(trial, temperatures, hottest)
    softcap = softcap_of(trial, softcaps, tightest)
    return {
        "recommendation": {
            "figure": trial.aim.figure,
            "target": trial.aim.target,
            "baseline_reaches": bool(trial.fine.all()),
            "baseline": trial.before,
            "temperature": remedy_document(trial, temperature, baseline, runtime),
            "softcap": remedy_document(trial, softcap, baseline, runtime),
            "qk_clip": clip_document(trial, temperatures, hottest),
        }
    }
