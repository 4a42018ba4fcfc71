"""The image that the Dockerfile starts from: given, pulled, or made of Debian's packages."""

import os
import re
import shutil
import ssl
from pathlib import Path

from tests.image import namespaces
from tests.image.command import Failed, run
from tests.image.compose import ROOT
from tests.image.engine import Engine
from tests.image.report import NotTried, Report

RELEASE = "bookworm"
"""Debian's release with Python 3.11, which the Dockerfile's own base has too."""
PACKAGES = ("python3", "python3-venv", "python-is-python3")
MADE = "localhost/attention-analysis-base:debootstrap"
_CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"

_ASK = "import sys, venv, ensurepip; print(*sys.version_info[:2], sep='.')"


def default() -> str:
    """The base that the Dockerfile names."""
    before_stages, _, _ = (ROOT / "Dockerfile").read_text().partition("\nFROM ")
    return str(re.findall(r"^ARG BASE=(\S+)$", before_stages, re.MULTILINE)[0])


def chosen(engine: Engine, place: Path, report: Report) -> tuple[str, str]:
    """A base and the version of its Python: BASE, the Dockerfile's own, or one made here.

    Raises:
        Stopped: there is none.
    """
    name = os.environ.get("BASE", "") or default()
    with report.check(f"the base {name} is at hand") as line:
        if (reason := _missing(engine, name)) is not None:
            raise NotTried(reason)
    if line.outcome != "ok":
        name = MADE
        title = f"debootstrap makes a base of Debian {RELEASE}"
        with report.check(title, needed=True):
            made(engine, place)
    with report.check("the base has Python and venv", needed=True) as line:
        line.detail = engine.once(name, "python", "-c", _ASK)
    return name, line.detail


def _missing(engine: Engine, name: str) -> str | None:
    """Why an image cannot be had, or nothing where it can."""
    try:
        engine("image", "inspect", name)
    except Failed:
        try:
            engine("pull", "--quiet", name, timeout_s=300)
        except Failed as error:
            return f"it cannot be pulled ({error.last})"
    return None


def made(engine: Engine, place: Path) -> None:
    """Make a minimal Debian with Python and give it to the engine."""
    if not namespaces.is_root() or shutil.which("debootstrap") is None:
        raise Failed("that takes root and the program debootstrap")
    root, packed = place / "base", place / "base.tar"
    include = f"--include={','.join(PACKAGES)}"
    own = ["debootstrap", "--variant=minbase", include, RELEASE, str(root), *mirror()]
    run(own, timeout_s=600)
    _trust(root)
    left_out = ("./var/cache/apt/*", "./var/lib/apt/lists/*")
    exclude = [f"--exclude={path}" for path in left_out]
    run(["tar", "--numeric-owner", "-C", str(root), *exclude, "-cf", str(packed), "."])
    shutil.rmtree(root)
    engine("import", str(packed), MADE, timeout_s=300)
    packed.unlink()


def mirror() -> list[str]:
    """The mirror of Debian that this machine's apt uses; without one, debootstrap's own choice."""
    if shutil.which("apt-get") is None:
        return []
    form = "$(ORIGIN) $(COMPONENT) $(RELEASE) $(REPO_URI)"
    found = run(["apt-get", "indextargets", "--format", form, "Created-By: Packages"]).splitlines()
    mirrors = [line.split()[-1] for line in found if re.match(r"Debian main [a-z]+ ", line)]
    return mirrors[:1]


def _trust(root: Path) -> None:
    """Let the base trust whom this machine trusts: its registry may be behind a proxy."""
    given = os.environ.get("PIP_CERT") or ssl.get_default_verify_paths().cafile
    if given is not None and Path(given).is_file():
        target = root / _CERTIFICATES
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(given, target)
