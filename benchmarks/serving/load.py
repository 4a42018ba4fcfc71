"""Requests a second of every way to ask every contender, in interleaved rounds."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from subprocess import CalledProcessError

from benchmarks.serving.cases import CASES, Case, check
from benchmarks.serving.contenders import Contender
from benchmarks.serving.process import Process
from benchmarks.serving.requests import Request, ask
from benchmarks.wrk import load

Key = tuple[str, str, str]
_TWICE = 2
# No answer, another than it should be, a wrong one, one that cannot be read; nobody to connect to.
_FAULTS = (
    OSError,
    HTTPException,
    RuntimeError,
    AssertionError,
    ValueError,
    KeyError,
    CalledProcessError,
)


@dataclass(frozen=True, slots=True)
class Lane:
    """One way to ask one contender for one case."""

    contender: Contender
    way: str
    case: Case
    request: Request

    @property
    def key(self) -> Key:
        """Contender, way and case."""
        return self.contender.name, self.way, self.case.name

    @property
    def refused(self) -> bool:
        """Whether the answer is a refusal, which is looked at once and not measured."""
        return self.request.expects != 200


def lanes(contender: Contender, cases: str) -> Iterator[Lane]:
    """Every case that it can be asked for, each way."""
    for way, asked in contender.ways.items():
        for case in CASES:
            if case.name in asked and case.name in cases:
                yield Lane(contender, way, case, asked[case.name](case))


def checked(lane: Lane, process: Process) -> float:
    """Ask twice, check the answer, of a refusal that it tells of binary; seconds of the second."""
    ask(process.port, lane.request)
    answer = ask(process.port, lane.request)
    if lane.refused:
        assert b"safetensors" in answer.body, answer.body
    elif lane.request.read is not None:
        check(lane.case, lane.request.read(answer))
    return answer.seconds


def speed(lane: Lane, process: Process, connections: int, seconds: float, alone: float) -> float:
    """Requests a second.

    Where so many requests would not be through twice in the time given, one connection is kept
    busy instead, and its median latency counts: these servers compute one after the other anyway,
    and what wrk leaves behind unanswered would be most of it.

    Raises:
        RuntimeError: a request failed.
    """
    slow = alone * connections * _TWICE > seconds
    measured = load(
        f"http://127.0.0.1:{process.port}{lane.request.path}",
        lane.request.body,
        connections=1 if slow else connections,
        seconds=max(seconds, (_TWICE + 0.5) * alone),
        headers=lane.request.headers,
    )
    if measured.failed:
        message = f"{measured.failed} requests failed"
        raise RuntimeError(message)
    if not slow:
        return measured.per_second
    if measured.median_ms > 0:
        return 1e3 / measured.median_ms
    return 1 / ask(process.port, lane.request).seconds  # none was through: slower than before


class Rounds:
    """Interleaved rounds over servers that are all up, so that the pairs lie close in time.

    What waits costs some 10 % of a core, nearly all of it Ray's, and weighs on all alike. Stopping
    it by signal is no way out: a watchdog takes the gap for a hang and ends its service, and
    Triton's server loses the memory that it shares. Wrk itself looks only at the status of answers:
    one of each lane is checked again when all rounds are over.
    """

    def __init__(self, processes: Mapping[str, Process], asked: Sequence[Lane]) -> None:
        self._processes = processes
        self._asked = list(asked)
        self.failed: dict[Key, str] = {}
        self._alone: dict[Key, float] = {}

        def looked_at(lane: Lane, process: Process) -> None:
            self._alone[lane.key] = checked(lane, process)

        for lane in self._asked:
            self._one(lane, looked_at)

    def run(self, count: int, connections: int, seconds: float) -> dict[Key, list[float]]:
        """Requests a second of each lane in each round; of those that never failed."""
        found: dict[Key, list[float]] = {}

        def measured(lane: Lane, process: Process) -> None:
            ask(process.port, lane.request)  # its caches are its own again
            value = speed(lane, process, connections, seconds, self._alone[lane.key])
            found.setdefault(lane.key, []).append(value)

        for number in range(count):
            for case in CASES:
                for lane in self._asked:
                    if lane.case == case and lane.key not in self.failed and not lane.refused:
                        self._one(lane, measured)
            print(f"  round {number + 1} of {count} at {connections} connections", flush=True)
        for lane in self._asked:
            if lane.key in found and lane.key not in self.failed:
                self._one(lane, checked)
        return {key: values for key, values in found.items() if key not in self.failed}

    def _one(self, lane: Lane, work: Callable[[Lane, Process], object]) -> None:
        try:
            work(lane, self._processes[lane.contender.name])
        except _FAULTS as error:
            ended = self._processes[lane.contender.name].ended()
            reason = f"{type(error).__name__}: {str(error)[:300]}"
            self.failed[lane.key] = f"{'crashed' if ended else 'failed'}: {reason}"
            print(f"  {' '.join(lane.key)}: {self.failed[lane.key]}", flush=True)
