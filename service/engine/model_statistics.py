"""What has become of the inferences of each model, counted as Triton's statistics are."""

import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from service.engine.computer import Timed


@dataclass(slots=True)
class Total:
    """How often something happened, and nanoseconds together."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int) -> None:
        """Once more."""
        self.count += 1
        self.ns += ns


@dataclass(frozen=True, slots=True)
class Spent:
    """Nanoseconds of one inference; `total` is from its first byte to its last."""

    total: int
    queue: int
    compute_input: int
    compute_infer: int
    compute_output: int


class Clock:
    """Where the time of one inference goes, from its making on."""

    def __init__(self) -> None:
        self._began = self._last = time.monotonic_ns()
        self._phases: dict[str, int] = {}
        self.batch_size = 1

    def lap(self, phase: str | None = None) -> None:
        """What passed since the last lap is that phase's; nobody's, where none is named."""
        now = time.monotonic_ns()
        if phase is not None:
            self._phases[phase] = now - self._last
        self._last = now

    def computed(self, timed: Timed[Any]) -> None:
        """What passed since the last lap, as the engine measured it."""
        self.batch_size = timed.batch_size
        self._phases["queue"] = int(timed.queue_ms * 1e6)
        self._phases["compute_infer"] = int(timed.compute_ms * 1e6)
        self.lap()

    @property
    def total(self) -> int:
        """Nanoseconds since the beginning."""
        return time.monotonic_ns() - self._began

    def spent(self) -> Spent:
        """All of it, once it is over."""
        return Spent(total=self.total, **self._phases)


@dataclass(slots=True)
class Phases:
    """Reading, computing and writing."""

    compute_input: Total = field(default_factory=Total)
    compute_infer: Total = field(default_factory=Total)
    compute_output: Total = field(default_factory=Total)

    def add(self, spent: Spent) -> None:
        """One inference more."""
        self.compute_input.add(spent.compute_input)
        self.compute_infer.add(spent.compute_infer)
        self.compute_output.add(spent.compute_output)


@dataclass(slots=True)
class ModelCounters:
    """The counters of one model; used from the event loop only."""

    success: Total = field(default_factory=Total)
    fail: Total = field(default_factory=Total)
    queue: Total = field(default_factory=Total)
    phases: Phases = field(default_factory=Phases)
    by_batch_size: dict[int, Phases] = field(default_factory=lambda: defaultdict(Phases))
    last_inference_ms: int = 0

    def succeeded(self, spent: Spent, *, batch_size: int = 1) -> None:
        """One inference was answered, computed together with `batch_size` − 1 others."""
        self.success.add(spent.total)
        self.queue.add(spent.queue)
        self.phases.add(spent)
        self.by_batch_size[batch_size].add(spent)
        self.last_inference_ms = time.time_ns() // 1_000_000

    def failed(self, ns: int) -> None:
        """One inference was not answered, whatever the reason."""
        self.fail.add(ns)

    @property
    def executions(self) -> int:
        """How often something was computed: what is computed together counts once."""
        return sum(executions(phases.compute_infer, n) for n, phases in self.by_batch_size.items())


def executions(total: Total, batch_size: int) -> int:
    """How many executions so many inferences were, some of which may yet be missing."""
    return -(-total.count // batch_size)


class InferenceStatistics:
    """The counters of every model that has been asked."""

    def __init__(self) -> None:
        self._models: dict[str, ModelCounters] = defaultdict(ModelCounters)

    def of(self, model: str) -> ModelCounters:
        """The counters of one model."""
        return self._models[model]
