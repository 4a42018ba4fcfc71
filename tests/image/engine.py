"""The container engines: docker where one runs, else podman with a storage of its own."""

import json
import resource
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.image import namespaces
from tests.image.command import Failed, run

DOCKER, PODMAN = "docker", "podman"
PROGRAMS = ("podman", "buildah")
PACKAGES = ("podman", "buildah", "crun", "catatonit", "slirp4netns", "debootstrap")
"""Of Debian; crun runs containers, catatonit is what `init: true` starts, slirp4netns connects
containers of users other than root."""


@dataclass(frozen=True)
class Engine:
    """An engine's command line; `docker` and `podman` take the same commands.

    Attributes:
        name: of the program.
        options: what stands before every command.
        run_options: what every container here is started with in addition.
        limits: which of cpu, memory and pids it can limit.
        schedules_health: whether it asks for the health of a container by itself.
    """

    name: str
    options: tuple[str, ...] = ()
    run_options: tuple[str, ...] = ()
    limits: frozenset[str] = frozenset({"cpu", "memory", "pids"})
    schedules_health: bool = True

    def __call__(
        self, *words: str, timeout_s: float = 60, given: str | None = None, merged: bool = False
    ) -> str:
        """What a command prints."""
        command = [self.name, *self.options, *words]
        return run(command, timeout_s=timeout_s, given=given, merged=merged).strip()

    def inspect(self, thing: str) -> dict[str, Any]:
        """What the engine knows of a container or an image."""
        (found,) = json.loads(self("inspect", thing))
        return dict(found)

    def once(self, image: str, *words: str, flags: Sequence[str] = (), given: str = "") -> str:
        """What a command prints in a container of its own, without a network."""
        options = ["run", "--rm", "--interactive", "--network", "none", *self.run_options, *flags]
        return self(*options, image, *words, given=given, timeout_s=120)

    def remove(self, *containers: str) -> None:
        """End containers without waiting for them, and forget them, those that there are."""
        at_once = ["--time", "0"] if self.name == PODMAN else []
        self("rm", "--force", *at_once, *containers, timeout_s=120)


def docker() -> Engine:
    """The engine that the docker client talks to."""
    known = json.loads(run([DOCKER, "info", "--format", "{{json .}}"]))
    fields = {"cpu": "CpuCfsQuota", "memory": "MemoryLimit", "pids": "PidsLimit"}
    return Engine(DOCKER, limits=frozenset(n for n, field in fields.items() if known.get(field)))


def podman(place: Path) -> Engine:
    """Podman with everything it writes under `place`."""
    options = [*storage(place), "--tmpdir", str(place / "tmp")]
    # As docker does: no directory in memory but those that are asked for.
    run_options = ["--read-only-tmpfs=false"]
    if own := namespaces.wanted(PODMAN):
        # systemd would look for its processes in another namespace.
        options += ["--cgroup-manager", "cgroupfs"]
        run_options += ulimits()
    known = json.loads(run([PODMAN, *options, "info", "--format", "json"]))["host"]
    return Engine(
        PODMAN,
        tuple(options),
        tuple(run_options),
        limits=frozenset({"cpu", "memory", "pids"} & set(known["cgroupControllers"])),
        schedules_health=not own and Path("/run/systemd/system").exists(),
    )


def storage(place: Path) -> list[str]:
    """The options of podman and buildah that put images and containers under `place`."""
    return ["--root", str(place / "storage"), "--runroot", str(place / "run")]


def ulimits() -> list[str]:
    """The limits in force: podman would raise them, which root in a sandbox may not."""
    kinds = {"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC}
    hard = {name: resource.getrlimit(kind)[1] for name, kind in kinds.items()}
    return [word for name, most in hard.items() for word in ("--ulimit", f"{name}={most}:{most}")]


def tidy(name: str, place: Path) -> None:
    """Remove what only this engine can, when all else has ended."""
    if name == PODMAN and not namespaces.wanted(name):  # files of users that exist only inside
        own = storage(place)
        run([PODMAN, *own, "unshare", "rm", "-rf", str(place / "storage")], timeout_s=300)


def chosen(wish: str | None) -> str:
    """Which engine to use: the one asked for, docker where one answers, else podman.

    Raises:
        Failed: there is none, and none can be installed.
    """
    if wish == DOCKER or (wish is None and docker_answers()):
        return DOCKER
    if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
        install(missing)
    return PODMAN


def docker_answers() -> bool:
    """Whether there is a client, and an engine behind it."""
    if shutil.which(DOCKER) is None:
        return False
    try:
        return bool(run([DOCKER, "version", "--format", "{{.Server.Version}}"]).strip())
    except Failed:
        return False


def install(missing: Sequence[str]) -> None:
    """Install what is missing, where that is possible without asking anybody.

    Raises:
        Failed: it is not.
    """
    command = f"apt-get install {' '.join(PACKAGES)}"
    if not namespaces.is_root() or shutil.which("apt-get") is None:
        raise Failed(f"no docker engine, and no {', '.join(missing)}; on Debian: {command}")
    print(f"no docker engine: {command}", flush=True)
    run(["apt-get", "update", "-qq"], timeout_s=300)
    run(
        ["apt-get", "install", "-qq", "--yes", "--no-install-recommends", *PACKAGES],
        timeout_s=600,
        given="",
    )
