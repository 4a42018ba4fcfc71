"""The tables of a run, as they are printed, kept and shown."""

import statistics
from collections.abc import Mapping

from benchmarks.results import Table
from benchmarks.serving.cases import CASES
from benchmarks.serving.contenders import Contender
from benchmarks.serving.load import Key
from benchmarks.serving.rest import Rest

Found = Mapping[Key, list[float]]
_TOLD = "413, told of binary"
_SMALL = 10


def speeds(
    contenders: list[Contender],
    found: Found,
    failed: Mapping[Key, str],
    rests: Mapping[str, Rest],
    measured_on: str,
    connections: int,
) -> Table:
    """Requests a second, a line for each way to ask, and what each server costs at rest."""
    headings = ("", *(case.title for case in CASES), "start, s", "idle, MiB")
    rows = []
    for contender in contenders:
        for way, asked in contender.ways.items():
            cells = [
                _cell(found, failed, (contender.name, way, case.name), case.name in asked)
                for case in CASES
            ]
            own = rests.get(contender.name)
            resting = (_start(own), _memory(own)) if own else ("", "")
            rows.append((f"{contender.title}: {way}", *cells, *resting))
    busy = "one connection" if connections == 1 else f"{connections} connections"
    rounds = max(map(len, found.values()), default=0)
    about = (
        f"Requests a second at {busy}, one worker process each, wrk on the same cores; medians of "
        f"{rounds} interleaved rounds. Every answer was checked against float64, first and last."
    )
    about += "".join(
        f" {', '.join(key)} {' '.join(reason.split())}." for key, reason in failed.items()
    )
    figures = {" | ".join(key): values for key, values in found.items()}
    figures |= {f"{name} | {n}": getattr(r, n) for name, r in rests.items() for n in Rest.__slots__}
    return Table(about, measured_on, headings, rows, figures)


def _cell(found: Found, failed: Mapping[Key, str], key: Key, asked: bool) -> str:
    if key in failed:
        return failed[key].partition(":")[0]
    if key in found:
        median = statistics.median(found[key])
        return f"{median:.0f}" if median >= _SMALL else f"{median:.2g}"
    return _TOLD if asked and key == ("service", "JSON", "L") else "–"


def _start(own: Rest) -> str:
    return f"{statistics.median(own.start_s):.1f}"


def _memory(own: Rest) -> str:
    return f"{statistics.median(own.memory_mib):.0f}"


def targets(rows: list[tuple[str, str, str, str]], measured_on: str) -> Table:
    """What was aimed at and what was reached."""
    about = (
        "What was aimed at: the median of the ratios (differences) paired by round, and its 90 % "
        "interval (range)."
    )
    return Table(about, measured_on, ("target", "must be", "measured", "reached"), rows)
