"""Builds the image with the engine's builder."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.image import engine as engines
from tests.image.command import Failed, run
from tests.image.compose import ROOT
from tests.image.engine import Engine
from tests.image.report import NotTried

TAG = "localhost/attention-analysis:image-test"
_PROXIES = ("http_proxy", "https_proxy", "no_proxy")
_TIMEOUT_S = 1800


@dataclass(frozen=True)
class Arguments:
    """What the Dockerfile is given, as the compose file would from the same variables."""

    base: str
    torch_index: str

    @property
    def network(self) -> str | None:
        """The loopback interface is this machine's only in its own network."""
        return "host" if "//127.0.0.1" in self.torch_index else None

    def environment(self) -> dict[str, str]:
        """As variables."""
        return {"BASE": self.base, "TORCH_INDEX": self.torch_index}

    def flags(self) -> list[str]:
        """As flags of a build."""
        proxies = {n: os.environ[n] for name in _PROXIES for n in (name, name.upper())
                   if n in os.environ}  # fmt: skip
        given = proxies | self.environment()
        flags = [word for name in given for word in ("--build-arg", f"{name}={given[name]}")]
        return flags + (["--network", self.network] if self.network else [])


def build(engine: Engine, place: Path, target: str, arguments: Arguments) -> None:
    """Build a target of the Dockerfile and name it TAG."""
    common = ["--target", target, "--tag", TAG, *arguments.flags(), str(ROOT)]
    if engine.name == engines.DOCKER:
        # The builder before BuildKit makes every stage above the target, cuda's gigabytes too.
        engine("buildx", "version")
        engine("build", *common, timeout_s=_TIMEOUT_S)
        return
    # chroot: no runtime and no network of its own. docker's format has health checks, OCI's none.
    own = ["buildah", *engines.storage(place), "build", "--isolation", "chroot"]
    run(
        [*own, "--format", "docker", *common],
        timeout_s=_TIMEOUT_S,
        environment={**os.environ, "TMPDIR": str(place)},
    )


def check(engine: Engine, target: str) -> str:
    """What the builder itself says of a target that is not built.

    Raises:
        NotTried: it has no such command.
    """
    if engine.name != engines.DOCKER:
        raise NotTried("buildah cannot check without building, and that is gigabytes of libraries")
    try:
        return engine("build", "--check", "--target", target, str(ROOT), timeout_s=300)
    except Failed as error:
        if "unknown flag" not in str(error):
            raise
        raise NotTried("this docker's builder has no --check") from error


def room(place: Path, needed_bytes: int) -> str:
    """Free space in words, where it is enough."""
    free = shutil.disk_usage(place).free
    assert free >= needed_bytes, f"{free / 1e9:.0f} GB are free, {needed_bytes / 1e9:.0f} needed"
    return f"{free / 1e9:.0f} GB free"
