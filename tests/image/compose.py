"""Reads docker-compose.yml: a service's settings, and the flags of `run` that mean the same."""

import re
import shlex
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.yml"

_VARIABLE = re.compile(
    r"\$(?:(?P<dollar>\$)|\{(?P<name>\w+)(?::-(?P<default>[^{}$]*))?\}|(?P<other>.{0,9}))"
)
_UNITS = {"k": 2**10, "m": 2**20, "g": 2**30}


@dataclass(frozen=True)
class Service:
    """One service of the compose file, variables filled in."""

    name: str
    given: Mapping[str, Any]

    @property
    def health_command(self) -> list[str]:
        """The health check's command."""
        kind, *command = self.given["healthcheck"]["test"]
        if kind != "CMD":
            raise ValueError(f"a health check of kind {kind!r}, expected 'CMD'")
        return [str(word) for word in command]

    @property
    def grace_s(self) -> int:
        """How long the engine waits between SIGTERM and SIGKILL."""
        return seconds(self.given["stop_grace_period"])

    @property
    def memory_bytes(self) -> int:
        """The memory limit."""
        return size(self.given["mem_limit"])

    @property
    def tmpfs(self) -> dict[str, int]:
        """Directories in memory, and their bytes."""
        return {
            path: size(options.partition("size=")[2])
            for path, _, options in (entry.partition(":") for entry in self.given["tmpfs"])
        }


def load(name: str, environment: Mapping[str, str]) -> Service:
    """A service as an engine would see it with these variables."""
    document = YAML(typ="safe").load(FILE.read_text())
    return Service(name, filled(document["services"][name], environment))


def filled(value: Any, environment: Mapping[str, str]) -> Any:
    """A part of the document with ${NAME} and ${NAME:-default} replaced.

    Raises:
        ValueError: there is a variable in another form.
    """
    if isinstance(value, str):
        return _VARIABLE.sub(lambda found: _variable(found, environment), value)
    if isinstance(value, list):
        return [filled(entry, environment) for entry in value]
    if isinstance(value, dict):
        return {key: filled(entry, environment) for key, entry in value.items()}
    return value


def _variable(found: re.Match[str], environment: Mapping[str, str]) -> str:
    if found["other"] is not None:
        raise ValueError(f"a variable in a form that is not known here: {found[0]}")
    if found["dollar"]:
        return "$"
    return environment.get(found["name"], "") or found["default"] or ""


def seconds(text: str) -> int:
    """`45s` as 45."""
    return int(re.fullmatch(r"(\d+)s", text)[1])  # type: ignore[index]


def size(text: str) -> int:
    """`4g` as bytes."""
    number, unit = re.fullmatch(r"(\d+)([kmg])b?", text).groups()  # type: ignore[union-attr]
    return int(number) * _UNITS[unit]


# --- the same as flags ---------------------------------------------------------------------------


def each(flag: str) -> Callable[[list[Any]], list[str]]:
    """A flag once per entry."""
    return lambda values: [word for value in values for word in (flag, str(value))]


def one(flag: str) -> Callable[[Any], list[str]]:
    """A flag and its value."""
    return lambda value: [flag, str(value)]


def switch(flag: str) -> Callable[[bool], list[str]]:
    """A flag that is there or not."""
    return lambda value: [flag] if value else []


def health(check: Mapping[str, Any]) -> list[str]:
    """A health check, its command as a shell would write it."""
    flags = ["--health-cmd", shlex.join(check["test"][1:])]
    for name in ("interval", "timeout", "start_period", "retries"):
        flags += [f"--health-{name.replace('_', '-')}", str(check[name])]
    return flags


def env_files(entries: list[Mapping[str, Any]]) -> list[str]:
    """Files of variables; one that need not be there is given where it is."""
    paths = [(ROOT / entry["path"], entry.get("required", True)) for entry in entries]
    return each("--env-file")([path for path, required in paths if required or path.exists()])


FLAGS: dict[str, Callable[[Any], list[str]]] = {
    "cap_drop": each("--cap-drop"),
    "cpus": one("--cpus"),
    "env_file": env_files,
    "healthcheck": health,
    "init": switch("--init"),
    "mem_limit": one("--memory"),
    "pids_limit": one("--pids-limit"),
    "read_only": switch("--read-only"),
    "restart": one("--restart"),
    "security_opt": each("--security-opt"),
    "stop_grace_period": lambda value: ["--stop-timeout", str(seconds(value))],
    "tmpfs": each("--tmpfs"),
    "user": one("--user"),
}
ELSEWHERE = {"build", "ports"}
"""What is no flag here: the image is built before, and ports are chosen free."""


LIMITS = {"cpu": "cpus", "memory": "mem_limit", "pids": "pids_limit"}
"""What limits a resource."""


def flags(service: Service, limits: Collection[str] = tuple(LIMITS)) -> list[str]:
    """The flags of `docker run` and `podman run` that mean what the compose file says.

    Args:
        service: the service.
        limits: the resources that the engine can limit; the others' settings are left out.

    Raises:
        ValueError: the file has a setting that is not known here.
    """
    if unknown := service.given.keys() - FLAGS.keys() - ELSEWHERE:
        raise ValueError(f"docker-compose.yml has settings not known here: {sorted(unknown)}")
    left_out = ELSEWHERE | {key for resource, key in LIMITS.items() if resource not in limits}
    given = {key: value for key, value in service.given.items() if key not in left_out}
    return [word for key, value in given.items() for word in FLAGS[key](value)]
