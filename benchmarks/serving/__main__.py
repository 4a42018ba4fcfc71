"""This service beside its peers: `python -m benchmarks.serving [--rounds N] [--seconds S]`.

Every contender that is installed is started and checked; those that are not are named with the way
to install them. The tables are printed, and with --write kept in docs/benchmarks.json.
"""

import argparse
import platform
import shutil
from contextlib import ExitStack
from importlib.metadata import version

from benchmarks.compare import machine
from benchmarks.results import Table, note
from benchmarks.serving import report
from benchmarks.serving.contenders import CONTENDERS, Contender
from benchmarks.serving.environments import HOW, requirements
from benchmarks.serving.load import Rounds, lanes
from benchmarks.serving.process import NotStarted, running
from benchmarks.serving.rest import Rest, rest
from benchmarks.serving.targets import Target, difference, of_load, of_whole
from benchmarks.serving.whole import whole
from docs.generate import table

_CONNECTIONS = (8, 1)
_NAMED = {
    "litserve": "litserve",
    "ray": "ray",
    "bentoml": "bentoml",
    "pytriton": "nvidia-pytriton",
    "fastapi": "fastapi",
}


def measured_on(contenders: list[Contender]) -> str:
    """Machine and versions."""
    versions = [f"uvicorn {version('uvicorn')}"]
    for name in sorted({c.environment for c in contenders if c.environment}):
        lines = requirements(name).read_text(encoding="ascii").splitlines()
        pinned = dict(line.split("==") for line in lines if "==" in line)
        versions.append(f"{_NAMED[name]} {pinned[_NAMED[name]]}")
    linux = f"Linux {platform.release().split('-')[0]}"
    return ", ".join([machine(), linux, *versions])


def installed(names: list[str]) -> list[Contender]:
    """Those of these names, or all; it is said of each that is not there."""
    found = []
    for contender in CONTENDERS:
        if names and contender.name not in names:
            continue
        if contender.installed:
            found.append(contender)
        else:
            how = f"python -m benchmarks.peers install {contender.environment}"
            print(f"{contender.title}: not installed ({HOW}, or {how})")
    return found


def startable(contenders: list[Contender]) -> list[Contender]:
    """Those that start; it is said of each that does not."""
    found = []
    for contender in contenders:
        try:
            with running(contender):
                found.append(contender)
        except (NotStarted, OSError) as error:
            print(f"{contender.title}: did not start: {error}")
    return found


def at_rest(rests: dict[str, Rest]) -> list[tuple[str, str, str, str]]:
    """The targets of start and idle memory."""
    ours, theirs = rests.get("service"), rests.get("fastapi")
    if ours is None:
        return []
    start = Target("start to ready, beyond `import torch`", 1.0, "s", at_most=True)
    rows = [start.row(difference(ours.start_s, ours.import_s))]
    if theirs is not None:
        idle = Target("idle memory, beyond plain FastAPI's", 60, "MiB", at_most=True)
        rows.append(idle.row(difference(ours.memory_mib, theirs.memory_mib)))
    return rows


def compare(
    contenders: list[Contender], rounds: int, seconds: float, cases: str
) -> dict[str, Table]:
    """All measurements of a run."""
    place = measured_on(contenders)
    print("at rest …", flush=True)
    rests = rest(contenders, rounds)
    rows: list[tuple[str, str, str, str]] = []
    tables: dict[str, Table] = {}
    with ExitStack() as stack:
        processes = {c.name: stack.enter_context(running(c)) for c in contenders}
        asked = [lane for contender in contenders for lane in lanes(contender, cases)]
        print("checking every answer …", flush=True)
        load = Rounds(processes, asked)
        for connections in _CONNECTIONS:
            found = load.run(rounds, connections, seconds)
            name = "service" if connections > 1 else "service, one connection"
            resting = rests if connections > 1 else {}
            tables[name] = report.speeds(
                contenders, found, load.failed, resting, place, connections
            )
            if connections > 1:
                rows = of_load(found)
    if contenders[0].name == "service":
        print("a whole request of L over its analysis …", flush=True)
        rows += of_whole(whole(contenders[0], max(rounds, 7), seconds=1))
    return {"targets": report.targets(rows + at_rest(rests), place), **tables}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="benchmarks.serving", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--cases", default="SDML", help="some of S, D, M, L")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME")
    parser.add_argument("--write", action="store_true", help="keep them in docs/benchmarks.json")
    given = parser.parse_args()
    if shutil.which("wrk") is None:
        print("The service is not compared: wrk is not installed (Debian: apt-get install wrk)")
        return
    contenders = startable(installed(given.only))
    tables = compare(contenders, given.rounds, given.seconds, given.cases)
    for name, kept in tables.items():
        print(f"\n{name}. {kept.about}\nOn {kept.measured_on}.\n")
        print(table(kept.headings, list(kept.rows)))
    if given.write:
        note(tables)


if __name__ == "__main__":
    main()
