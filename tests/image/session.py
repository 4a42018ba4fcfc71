"""The whole run, in the namespaces that it was started in: `python -m tests.image.session`."""

import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path

from tests.image import (
    answers,
    base,
    building,
    compose,
    confinement,
    contents,
    launch,
    namespaces,
    scaling,
    stopping,
    wheels,
)
from tests.image import engine as engines
from tests.image.building import Arguments
from tests.image.compose import Service
from tests.image.engine import Engine
from tests.image.replicas import Replica
from tests.image.report import Report, Stopped

_SERVICE = "cpu"
_REPLICAS = 2
_ROOM = 8 * 10**9


def main(name: str, place: Path) -> int:
    """Build, run, check and report; the exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    report = Report()
    try:
        with report.check(f"{name} can be used", needed=True):
            engine = opened(name, place)
        everything(engine, place, report)
    except Stopped as needed:
        report.note(f"what follows needs that: {needed}")
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        return 128 + signal.SIGINT
    print(report.summary(), flush=True)
    return report.exit_code


def opened(name: str, place: Path) -> Engine:
    """The engine, its namespaces settled."""
    if name == engines.DOCKER:
        return engines.docker()
    if namespaces.wanted(name):
        namespaces.settle()
    return engines.podman(place)


def everything(engine: Engine, place: Path, report: Report) -> None:
    """All checks in order."""
    service = compose.load(_SERVICE, os.environ)
    arguments = built(engine, place, service, report)
    # compose gives its own build the same name, and leaves the first without one.
    images = [engine.inspect(building.TAG)["Id"], building.TAG]
    if arguments.base == base.MADE:
        images.append(base.MADE)
    try:
        contents.checks(engine, arguments, service, report)
        run(engine, place, service, arguments, report)
    finally:
        engine("rmi", "--force", *images)


def built(engine: Engine, place: Path, service: Service, report: Report) -> Arguments:
    """Build the image; what it was built with."""
    with report.check("there is room on the disk", needed=True) as line:
        line.detail = building.room(place, _ROOM)
    found, python = base.chosen(engine, place, report)
    target = service.given["build"]["target"]
    with wheels.torch_index(place, python, report) as index:
        arguments = Arguments(found, index)
        with report.check(f"the Dockerfile's target {target} is built", needed=True):
            building.build(engine, place, target, arguments)
    with report.check("the target cuda is checked") as line:
        line.detail = building.check(engine, "cuda")
    return arguments


def run(
    engine: Engine, place: Path, service: Service, arguments: Arguments, report: Report
) -> None:
    """Start two replicas and check them, until both have ended."""
    title = f"docker compose config, docker compose up --scale {service.name}={_REPLICAS}"
    if launch.composes(engine):
        started = launch.with_compose(engine, service, _REPLICAS, arguments, place)
    else:
        report.not_tried(title, "no docker with compose; `run` has flags that mean the same")
        started = launch.with_flags(engine, service, _REPLICAS, bridge=bridged(engine, report))
        title = f"{_REPLICAS} containers start, with what the compose file says as flags"
    with ExitStack() as stack:
        with report.check(title, needed=True):
            replicas = stack.enter_context(started)
        checks(replicas, report)


def bridged(engine: Engine, report: Report) -> bool:
    """Whether containers here have a network of their own."""
    if namespaces.wanted(engine.name):
        namespaces.private_network()
    title = "a port is published on 127.0.0.1 from a network of the container's own"
    with report.check(title) as line:
        launch.try_bridge(engine)
    return line.outcome == "ok"


def checks(replicas: list[Replica], report: Report) -> None:
    """The checks of running replicas."""
    for number, replica in enumerate(replicas, 1):
        with report.check(f"replica {number} gets ready", needed=True) as line:
            line.detail = f"{replica.wait_until_ready():.1f} s after its start"
    first, second = replicas
    confinement.checks(first, report)
    answers.checks(first, report)
    scaling.checks(first, second, report)
    stopping.checks(first, second, report)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
