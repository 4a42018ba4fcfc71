"""One setting for every head, and each head's own: the mildest that reach the target."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from schemas.mechanisms import LARGEST_BASE, LogLength
from schemas.parameters import SeededWeights
from service.analysis import analyse
from service.laboratory.numbers import plain, relative_change
from service.laboratory.search import Found, round_towards
from service.laboratory.trial import Effect, Trial, beside_the_bias, heads_named
from service.plan import plan
from service.report import Analysis
from service.runtime import Runtime
from service.scales import RowScale

_NO_BASE = f"a log_length of this effect would have a base above {LARGEST_BASE:.0e}: give a number"
# A value that a rounding in the last pass let slip is moved on by a thousandth.
_NUDGES = 3


@dataclass(frozen=True, slots=True)
class Remedy:
    """A kind of setting: its name, what was tried at most, and how it is put into a mechanism."""

    name: str
    found: Found
    limit: float
    upwards: bool
    applied: Tensor
    effect: Callable[[Tensor], Effect]
    settings: Callable[[float], dict[str, Any] | None]


def temperature_of(trial: Trial, found: Found, limit: float) -> Remedy:
    """The default or given scale divided by t."""

    def settings(value: float) -> dict[str, Any] | None:
        scale = trial.bench.scale
        if isinstance(scale, RowScale):
            # default · ln n / ln base / t = default · ln n / ln base^t
            base = scale.base**value if value < 64 else float("inf")
            return (
                None if base > LARGEST_BASE else {"scale": LogLength(kind="log_length", base=base)}
            )
        return None if scale is None else {"scale": scale / value}

    return Remedy(
        "temperature",
        found,
        limit,
        True,
        trial.applied_temperatures(found),
        lambda values: trial.effect(temperature=values),
        settings,
    )


def softcap_of(trial: Trial, found: Found, limit: float) -> Remedy:
    """A bound c on the logits: c · tanh(logit / c)."""
    return Remedy(
        "softcap",
        found,
        limit,
        False,
        trial.applied_softcaps(found),
        lambda values: trial.effect(softcap=values),
        lambda value: {"softcap": value},
    )


def remedy_document(
    trial: Trial, remedy: Remedy, baseline: Analysis, runtime: Runtime
) -> dict[str, Any]:
    """As the contract writes it: the value for all heads, verified, and each head's own."""
    own = remedy.effect(remedy.applied)
    most = None if all(own.reached) else _strongest(trial, remedy)
    heads = [_head(trial, remedy, own, most, head) for head in range(trial.heads)]
    if bool(trial.fine.all()):
        kept = {"value": None, "mechanism": None, "measured": trial.before}
        return {"reachable": True, **kept, "output_change": 0.0, "heads": heads}
    missed = [entry["head"] for entry in heads if not entry["reachable"]]
    if missed:
        return {**_nothing(_listed(trial, missed, remedy)), "heads": heads}
    return {**_common(trial, remedy, baseline, runtime), "heads": heads}


def _nothing(reason: str) -> dict[str, Any]:
    empty = dict.fromkeys(("value", "mechanism", "measured", "output_change"))
    return {"reachable": False, **empty, "reason": reason}


def _listed(trial: Trial, missed: list[int], remedy: Remedy) -> str:
    way = "up" if remedy.upwards else "down"
    return (
        f"no {remedy.name} {way} to {remedy.limit:.4g} reaches the target for "
        f"{heads_named(missed)}{beside_the_bias(trial)}"
    )


def _strongest(trial: Trial, remedy: Remedy) -> Effect:
    return remedy.effect(torch.full((trial.heads,), remedy.limit, dtype=torch.float64))


def _head(
    trial: Trial, remedy: Remedy, own: Effect, most: Effect | None, head: int
) -> dict[str, Any]:
    before = trial.before[head]
    entry = {"head": head, "reachable": True, "value": None, "baseline": before}
    if bool(trial.fine[head]):
        return {**entry, "measured": before, "output_change": 0.0}
    if own.reached[head]:
        value = float(remedy.found.values[head])
        moved = own.output_changes[head]
        return {**entry, "value": value, "measured": own.figures[head], "output_change": moved}
    reason = "the value that the search found misses the target in its final pass"
    if most is not None and not bool(remedy.found.reachable[head]):
        reason = _why(trial, remedy, most.figures[head])
    return {**entry, "reachable": False, "measured": None, "output_change": None, "reason": reason}


def _why(trial: Trial, remedy: Remedy, figure: float | None) -> str:
    """What the strongest setting comes to."""
    at = f"even a {remedy.name} of {remedy.limit:.4g}, which sets hardly any score apart, gives"
    said = f"{at} {trial.aim.figure} {'nothing' if figure is None else f'{figure:.4g}'}"
    return said + beside_the_bias(trial)


def _common(trial: Trial, remedy: Remedy, baseline: Analysis, runtime: Runtime) -> dict[str, Any]:
    """The strongest of the heads' own values, moved on where the final pass misses."""
    needed = remedy.found.values[~trial.fine]
    value = float(needed.max() if remedy.upwards else needed.min())
    for _ in range(_NUDGES):
        effect, settings = _verified(trial, remedy, value, baseline, runtime)
        if all(effect.reached):
            return {
                "reachable": True,
                "value": value,
                "mechanism": settings and _posted(trial, settings),
                "measured": effect.figures,
                "output_change": effect.output_change,
                **({} if settings is not None else {"reason": _NO_BASE}),
            }
        value = round_towards(value * (1.001 if remedy.upwards else 0.999), upwards=remedy.upwards)
    return _nothing("no one value suits every head; each has its own below")


def _verified(
    trial: Trial, remedy: Remedy, value: float, baseline: Analysis, runtime: Runtime
) -> tuple[Effect, dict[str, Any] | None]:
    """The final pass: the analysis that the caller gets by posting the mechanism."""
    settings = remedy.settings(value)
    if settings is None:
        return remedy.effect(torch.full((trial.heads,), value, dtype=torch.float64)), None
    request = trial.bench.plan.request
    mechanism = request.mechanism.model_copy(update=settings)
    found = analyse(plan(request.model_copy(update={"mechanism": mechanism})), runtime)
    measured = trial.aim.measure(found.rows)
    change = None
    if "output" in found.tensors:
        change = relative_change(found.tensors["output"], baseline.tensors["output"])
    return Effect(plain(measured), trial.aim.reached(measured).tolist(), change, []), settings


def _posted(trial: Trial, settings: dict[str, Any]) -> dict[str, Any]:
    """The baseline's mechanism with these settings, without learned weights that were given."""
    mechanism = trial.bench.plan.request.mechanism.model_copy(update=settings)
    source = trial.bench.plan.mechanism.source(mechanism)
    drawn = isinstance(source, SeededWeights)
    written = mechanism.model_dump(exclude=None if drawn else {"parameters"}, exclude_none=True)
    return {"kind": mechanism.kind, **written}
