"""Interleaved rounds of several ways to do the same, and their ratios with an interval."""

import os
import platform
import random
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter

import torch

ROUNDS = 11
_RESAMPLES = 2_000
_FELT_S = 0.02


@dataclass(frozen=True)
class Ratio:
    """Median of the paired ratios, and its 90 % bootstrap interval."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        """As the tables show it."""
        return f"{self.median:.2f} ({self.low:.2f}–{self.high:.2f})"


def interleave(
    ways: Mapping[str, Callable[[], object]], rounds: int = ROUNDS
) -> dict[str, list[float]]:
    """Seconds of each way in each round; every round runs all of them, in changing order.

    Each runs uncounted first, for so long as what came before can be felt: it leaves OpenMP threads
    that spin for some milliseconds, and its own data in the caches (measured: 20 % on a pass of
    15 ms; at 3 ms after one such run 1.6 × SDPA, after two 1.15, which is SDPA's own, after four
    and after eight 1.4).
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    order, shuffle = list(ways), random.Random(0).shuffle
    for _ in range(rounds):
        shuffle(order)
        for name in order:
            begun = perf_counter()
            while True:
                ways[name]()
                if perf_counter() - begun > _FELT_S:
                    break
            start = perf_counter()
            ways[name]()
            seconds[name].append(perf_counter() - start)
    return seconds


def ratio(measured: list[float], floor: list[float]) -> Ratio:
    """Paired by round: what one round shares, noise of the machine too, cancels."""
    paired = [a / b for a, b in zip(measured, floor, strict=True)]
    draw = random.Random(1).choices
    medians = sorted(statistics.median(draw(paired, k=len(paired))) for _ in range(_RESAMPLES))
    return Ratio(statistics.median(paired), medians[_RESAMPLES // 20], medians[-_RESAMPLES // 20])


def machine() -> str:
    """What the figures were measured on."""
    return (
        f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__} "
        f"({torch.backends.cpu.get_cpu_capability()}), Python {platform.python_version()}"
    )
