"""What was aimed at, against whom, and whether a run reached it."""

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.compare import Ratio, ratio
from benchmarks.serving.load import Key

_FASTAPI = ("fastapi", "JSON")
_TRITON = ("triton", "Open Inference")
_STARLETTE = ("starlette", "raw bytes")
_TITLES = {_FASTAPI: "plain FastAPI", _TRITON: "Triton", _STARLETTE: "raw Starlette"}
_AIMS: dict[str, dict[str, dict[tuple[str, str], float]]] = {
    "JSON": {"S": {_FASTAPI: 8}, "D": {_FASTAPI: 4}, "M": {_FASTAPI: 5}},
    "bytes": {
        "S": {_TRITON: 2, _STARLETTE: 0.6},
        "M": {_TRITON: 1.2, _STARLETTE: 0.9},
        "L": {_TRITON: 4, _STARLETTE: 4},
    },
}
_WAYS = {"JSON": ("JSON",), "bytes": ("safetensors", "Open Inference")}


@dataclass(frozen=True, slots=True)
class Target:
    """A figure with its bound: at least so much, or at most."""

    claim: str
    bound: float
    unit: str = "×"
    at_most: bool = False

    def row(self, measured: Ratio) -> tuple[str, str, str, str]:
        """A line of the table; what counts is the median."""
        reached = measured.median <= self.bound if self.at_most else measured.median >= self.bound
        word = "at most" if self.at_most else "at least"
        shown = f"{word} {self.bound:g} {self.unit}"
        return self.claim, shown, f"{measured} {self.unit}", "yes" if reached else "**no**"


def of_load(found: Mapping[Key, list[float]]) -> list[tuple[str, str, str, str]]:
    """Those of speed, as far as both sides were measured."""
    rows = []
    for kind, cases in _AIMS.items():
        for case, peers in cases.items():
            for peer, bound in peers.items():
                for way in _WAYS[kind]:
                    ours, theirs = found.get(("service", way, case)), found.get((*peer, case))
                    if ours and theirs:
                        claim = f"{case}, {way}, over {_TITLES[peer]}"
                        rows.append(Target(claim, bound).row(ratio(ours, theirs)))
    return rows


def of_whole(found: Mapping[str, list[float]]) -> list[tuple[str, str, str, str]]:
    """A whole request of L over the analysis inside it."""
    return [
        Target(f"L, {way}, one connection: whole request over the analysis in process", 1.25,
               at_most=True).row(ratio(spent, found["inside"]))
        for way, spent in found.items()
        if way != "inside"
    ]  # fmt: skip


def difference(ours: list[float], theirs: list[float]) -> Ratio:
    """Paired by round, as `ratio` is; the interval is the range."""
    paired = sorted(a - b for a, b in zip(ours, theirs, strict=True))
    middle = len(paired) // 2
    median = paired[middle] if len(paired) % 2 else (paired[middle - 1] + paired[middle]) / 2
    return Ratio(median, paired[0], paired[-1])
