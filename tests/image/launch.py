"""Starts replicas: with compose where docker has it, else with flags that mean the same."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.image.building import TAG, Arguments
from tests.image.command import Failed, run
from tests.image.compose import FILE, Service, flags
from tests.image.engine import DOCKER, Engine
from tests.image.replicas import INSIDE, Replica
from tests.image.report import NotTried

_NAME = f"attention-image-test-{os.getpid()}"


def composes(engine: Engine) -> bool:
    """Whether there is docker compose."""
    with suppress(Failed):
        return engine.name == DOCKER and bool(engine("compose", "version"))
    return False


def try_bridge(engine: Engine) -> None:
    """Publish a port from a network of a container's own.

    Raises:
        NotTried: that cannot be done here.
    """
    try:
        engine("run", "--rm", *engine.run_options, *_network(None), TAG, "true")
    except Failed as error:
        raise NotTried(error.last) from error


@contextmanager
def with_flags(
    engine: Engine, service: Service, count: int, *, bridge: bool
) -> Iterator[list[Replica]]:
    """Replicas started one by one; without a bridge they share this machine's network."""
    ports = [None if bridge else port for port in free_ports(count)]
    replicas = [
        Replica(engine, f"{_NAME}-{number}", service, port) for number, port in enumerate(ports)
    ]
    try:
        for replica in replicas:
            own = [*engine.run_options, *flags(service, engine.limits), *_network(replica.port)]
            if not engine.schedules_health:
                own += ["--health-interval", "disable"]
            engine("run", "--detach", "--name", replica.name, *own, TAG)
        yield replicas
    finally:
        engine.remove(*(replica.name for replica in replicas))


def _network(port: int | None) -> list[str]:
    if port is None:
        return ["--publish", f"127.0.0.1::{INSIDE}"]
    settings = ["--env", "ATTENTION_HOST=127.0.0.1", "--env", f"ATTENTION_PORT={port}"]
    return ["--network", "host", *settings]


@contextmanager
def with_compose(
    engine: Engine, service: Service, count: int, arguments: Arguments, place: Path
) -> Iterator[list[Replica]]:
    """Replicas as `docker compose up --scale` starts them, published on a range of ports."""
    added = place / "override.yml"
    build = {"network": arguments.network} if arguments.network else {}
    added.write_text(json.dumps({"services": {service.name: {"image": TAG, "build": build}}}))
    files = ["--file", str(FILE), "--file", str(added)]
    command = [DOCKER, "compose", "--project-name", _NAME, *files]
    ports = free_ports(count + 2)
    environment = {**os.environ, **arguments.environment()}
    environment["ATTENTION_PUBLISH"] = f"127.0.0.1:{ports[0]}-{ports[-1]}"

    def compose(*words: str) -> str:
        return run([*command, *words], timeout_s=600, environment=environment)

    compose("config", "--quiet")
    try:
        scale = f"{service.name}={count}"
        compose("up", "--detach", "--build", "--scale", scale, service.name)
        names = compose("ps", "--quiet", service.name).split()
        yield [Replica(engine, name, service) for name in names]
    finally:
        compose("down", "--timeout", "0")


def free_ports(count: int) -> list[int]:
    """Consecutive ports that nobody listens on."""
    for first in range(20_000, 60_000, 97):
        listeners = [socket.socket() for _ in range(count)]
        try:
            for place, listener in enumerate(listeners):
                listener.bind(("127.0.0.1", first + place))
        except OSError:
            continue
        finally:
            for listener in listeners:
                listener.close()
        return list(range(first, first + count))
    raise OSError("no free ports")
