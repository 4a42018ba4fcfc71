"""Sweeps: seeded scaled dot-product attention over a grid, each point independent of the others."""

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch

from schemas.attention import AttentionRequest
from schemas.inputs import SeededInputs
from schemas.mechanisms import ScaledDotProduct
from schemas.sweeps import SweepRequest
from service.analysis import analyse
from service.attention.workers import Workers
from service.diagnostics import DIAGNOSTICS
from service.diagnostics.included import INCLUDED
from service.estimate import Estimate, element_needs, estimate
from service.laboratory.figures import SWEPT, SweepFigure
from service.laboratory.predictions import asymptotes, predictions
from service.limits import Need
from service.plan import Plan, plan
from service.report import Analysis
from service.runtime import Runtime

MECHANISM = ScaledDotProduct().kind
"""What all of them are of."""
SCALES: dict[str, Callable[[int], float]] = {
    "1/sqrt(d_k)": lambda d_k: d_k**-0.5,
    "1/d_k": lambda d_k: 1 / d_k,
    "1": lambda _: 1.0,
}
# Measured on two cores: below it the repeats of a point, one after the other, are faster than two
# threads that wait for one interpreter; at four times as much two threads are twice as fast.
_SHARED_ELEMENTS = 2**17
_ROW_BYTES = 16_384
# An analysis of hardly any work takes some 6 ms on one busy core: so much work is done meanwhile.
_FIXED_FLOPS = 10**8


@dataclass(frozen=True, slots=True)
class Point:
    """One point of the grid."""

    request: SweepRequest
    d_k: int
    scale: str | float
    scale_value: float
    key_length: int
    seeds: tuple[int, ...]

    @property
    def name(self) -> str:
        """Which one it is, in words."""
        return f"d_k {self.d_k}, key_length {self.key_length}"

    def planned(self, seed: int) -> Plan:
        """The analysis of one repeat; shapes and cost are those of all."""
        return plan(_request(self.request, self.key_length, self.d_k, self.scale_value, seed))


@dataclass(frozen=True, slots=True)
class Sweep:
    """A validated request, its points in order, what each needs, and what all cost at most."""

    request: SweepRequest
    points: tuple[Point, ...]
    elements: tuple[Need, ...]
    estimate: Estimate

    @property
    def needs(self) -> list[Need]:
        """What is compared with the limits."""
        return [*self.elements, *self.estimate.needs]


def grid_need(request: SweepRequest) -> Need:
    """The number of points, known before any of them is planned."""
    points = len(request.d_k) * len(request.scale) * len(request.key_length)
    return Need("max_sweep_points", points, "the sweep, in points of its grid")


def prepare_sweep(request: SweepRequest, *, threads: int) -> Sweep:
    """Plan the first repeat of every point: key_length outermost, then d_k, then scale.

    The largest point counts in memory, all points in work.

    Raises:
        Invalid: shapes that mean nothing.
    """
    grid = product(request.key_length, request.d_k, request.scale)
    points = tuple(_point(request, keys, d_k, scale) for keys, d_k, scale in grid)
    total, elements = Estimate(0, 0, 0, _ROW_BYTES * len(points)), []
    for point in points:
        first = point.planned(request.seed)
        elements += [
            replace(need, what=f"{point.name}: {need.what}") for need in element_needs(first)
        ]
        cost = estimate(first, threads=1, json=True)
        flops = total.flops + (cost.flops + _FIXED_FLOPS) * request.repeats
        working = max(total.working_bytes, cost.working_bytes * threads)
        total = replace(total, flops=flops, working_bytes=working)
    return Sweep(request, points, tuple(elements), total)


def _point(request: SweepRequest, keys: int, d_k: int, scale: str | float) -> Point:
    value = SCALES[scale](d_k) if isinstance(scale, str) else scale
    seeds = tuple(request.seed + repeat for repeat in range(request.repeats))
    return Point(request, d_k, scale, value, keys, seeds)


def _request(
    request: SweepRequest, keys: int, d_k: int, scale: float, seed: int
) -> AttentionRequest:
    """The analysis that one repeat of a point equals."""
    inputs = SeededInputs(seed=seed, query_length=request.query_length, key_length=keys, d_k=d_k)
    return AttentionRequest.model_validate(
        {
            "mechanism": ScaledDotProduct(scale=scale),
            "inputs": inputs,
            "include": ["diagnostics", *(_item(name, seed) for name in request.include)],
        }
    )


def _item(name: str, seed: int) -> str | dict[str, Any]:
    """What is drawn has the seed of the inputs; a second way to the same gradients is not shown."""
    if name == "gradients":
        return {"name": name, "seed": seed, "closed_form": False}
    return {"name": name, "seed": seed} if name == "perturbation" else name


def run_point(point: Point, runtime: Runtime) -> dict[str, Any]:
    """Measure a point and predict it: a row of the sweep, in the contract's names."""
    return {
        "d_k": point.d_k,
        "scale": point.scale,
        "scale_value": point.scale_value,
        "key_length": point.key_length,
        "seeds": list(point.seeds),
        "measured": _summarised(_repeats(point, runtime)),
        "predicted": predictions(point.d_k, point.scale_value, point.key_length),
        "asymptote": asymptotes(point.d_k, point.scale_value, point.key_length),
    }


def _repeats(point: Point, runtime: Runtime) -> list[dict[str, float]]:
    """The figures of every repeat, in order."""
    found: list[dict[str, float]] = [{}] * len(point.seeds)
    one, include = Workers(1), point.request.include

    def work(numbers: Iterable[int]) -> None:
        for number in numbers:
            member = point.planned(point.seeds[number])
            found[number] = figures(analyse(member, replace(runtime, workers=one)), include)

    elements = (point.request.query_length + 2 * point.key_length) * point.d_k
    workers = runtime.workers if elements >= _SHARED_ELEMENTS else one
    workers.run(range(len(point.seeds)), work)
    return found


def figures(analysis: Analysis, include: Collection[str]) -> dict[str, float]:
    """The figures of one repeat by name, NaN where they are undefined."""
    found = {name: float(figure.mean) for name, figure in analysis.diagnostics.items()}
    return found | {figure.name: figure.compute(analysis) for figure in _swept(include)}


def _swept(include: Collection[str]) -> list[SweepFigure]:
    return [f for f in SWEPT.values() if f.include is None or f.include in include]


def _summarised(repeats: list[dict[str, float]]) -> dict[str, dict[str, float | None]]:
    """Mean and standard error over the repeats where a figure is defined."""
    return {name: _summary([found[name] for found in repeats]) for name in repeats[0]}


def _summary(values: list[float]) -> dict[str, float | None]:
    defined = torch.tensor([v for v in values if math.isfinite(v)], dtype=torch.float64)
    count = len(defined)
    error = float(defined.std()) / math.sqrt(count) if count > 1 else None
    return {"mean": float(defined.mean()) if count else None, "standard_error": error}


def names(request: SweepRequest) -> list[str]:
    """The measured names of a sweep in order, known beforehand."""
    own = [
        d.name
        for d in DIAGNOSTICS.values()
        if d.aggregated and d.needs != "hidden" and not d.trivial_for_softmax
    ]
    extra = [f.name for f in INCLUDED.values() if f.include in request.include]
    return [*own, *extra, *(figure.name for figure in _swept(request.include))]
