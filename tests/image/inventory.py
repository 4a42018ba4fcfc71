"""Runs inside an image, fed to its Python: what lies in it, as JSON."""

import json
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

COMPILERS = ("cc", "gcc", "g++", "clang", "ld", "make", "rustc", "nvcc")
INSTALLERS = ("/opt/venv/bin/pip", "/opt/pip")
CACHES = ("~root/.cache", "/opt/venv/.cache", "/build", "/home", "/var/cache/apt/archives")


def files(top: str) -> Iterator[tuple[str, os.stat_result]]:
    """Everything below a directory on its own file system, as far as this user can see it."""
    try:
        top = str(Path(top).expanduser())
        device = os.lstat(top).st_dev
    except (OSError, RuntimeError):
        return
    for directory, names, leaves in os.walk(top):
        found = {name: os.lstat(Path(directory, name)) for name in names + leaves}
        yield from ((str(Path(directory, name)), status) for name, status in found.items())
        names[:] = [name for name in names if found[name].st_dev == device]


def weight(top: str) -> int:
    """Bytes of the files below a directory."""
    return sum(s.st_size for _, s in files(top) if stat.S_ISREG(s.st_mode))


def heaviest(count: int = 8) -> dict[str, int]:
    """The largest packages served, and the project."""
    found = {p.name: weight(str(p)) for p in Path("/opt/venv/lib").glob("*/site-packages/*")
             if p.is_dir()}  # fmt: skip
    largest = sorted(found, key=found.__getitem__, reverse=True)[:count]
    return {name: found[name] for name in largest}


def main() -> None:
    """Print it."""
    everything = list(files("/"))
    facts = {
        "uid": os.getuid(),
        "bytes": sum(s.st_size for _, s in everything if stat.S_ISREG(s.st_mode)),
        "heaviest": heaviest(),
        "project": weight("/opt/app"),
        "setuid": sorted(
            path for path, s in everything if stat.S_ISREG(s.st_mode) and s.st_mode & 0o6000
        ),
        "writable": [
            path
            for path, s in everything
            if path.startswith("/opt") and not stat.S_ISLNK(s.st_mode) and os.access(path, os.W_OK)
        ],
        "compilers": [name for name in COMPILERS if shutil.which(name)],
        "leftovers": [p for p in (*INSTALLERS, *CACHES) if weight(p)],
        "python": sys.version.split()[0],
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
