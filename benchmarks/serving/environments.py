"""The peers' environments: one each in .bench, with the versions of its requirements file."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.serving.contenders import BENCH, CONTENDERS, SCRIPTS

# pytriton's server finds its interpreter's library in the system's places only.
_INTERPRETERS = {"pytriton": "/usr/bin/python3"}
NAMES = tuple(sorted({c.environment for c in CONTENDERS if c.environment is not None}))
HOW = "make bench-peers"


class NotInstalled(Exception):
    """What stood in the way."""


def requirements(name: str) -> Path:
    """Exact versions of everything in it."""
    return SCRIPTS / "requirements" / f"{name}.txt"


def install(name: str) -> None:
    """Make the environment anew.

    Raises:
        NotInstalled: its interpreter is not there, or pip failed.
    """
    interpreter = _INTERPRETERS.get(name, sys.executable)
    if shutil.which(interpreter) is None:
        message = f"it needs {interpreter}"
        raise NotInstalled(message)
    place = BENCH / name
    _run(interpreter, "-m", "venv", "--clear", str(place))
    pip = (str(place / "bin" / "python"), "-m", "pip", "install", "--quiet")
    versions = requirements(name)
    if index := os.environ.get("TORCH_INDEX"):
        lines = versions.read_text(encoding="ascii").splitlines()
        torch = next(line for line in lines if line.startswith("torch=="))
        _run(*pip, "--index-url", index, torch)
    _run(*pip, "-r", str(versions))
    (place / ".installed").touch()


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    if done.returncode:
        raise NotInstalled(f"{' '.join(command)}: {(done.stderr or done.stdout)[-600:]}")
