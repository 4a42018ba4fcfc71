"""Runs inside a container, fed to its Python: how the serving process is confined, as JSON."""

import json
import os
import tempfile
from pathlib import Path

TRIED = ("/", "/opt", "/opt/app", "/opt/venv", "/etc", "/var/tmp", "/tmp")
LIMITS = {  # cgroup version 2, then 1
    "memory": ("memory.max", "memory/memory.limit_in_bytes"),
    "pids": ("pids.max", "pids/pids.max"),
    "cpu": ("cpu.max", "cpu/cpu.cfs_quota_us"),
}


def server() -> int:
    """The process that serves."""
    for directory in Path("/proc").glob("[0-9]*"):
        words = (directory / "cmdline").read_bytes().split(b"\0")
        if words[1:3] == [b"-m", b"service"]:
            return int(directory.name)
    raise LookupError("no serving process")


def status(pid: int) -> dict[str, str]:
    """The kernel's view of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def writable(directory: str) -> bool:
    """Whether a file can be made there."""
    try:
        with tempfile.TemporaryFile(dir=directory):
            return True
    except OSError:
        return False


def mounts() -> dict[str, list[str]]:
    """Mount points with their kind and options."""
    found = {}
    for line in Path("/proc/mounts").read_text().splitlines():
        _, point, kind, options, *_ = line.split()
        found[point] = [kind, *options.split(",")]
    return found


def limit(names: tuple[str, ...]) -> str | None:
    """What a control group says, in whichever version there is."""
    paths = [Path("/sys/fs/cgroup", name) for name in names]
    return next((path.read_text().strip() for path in paths if path.exists()), None)


def main() -> None:
    """Print it."""
    pid, points = server(), mounts()
    space = os.statvfs("/tmp")
    facts = {
        "pid": pid,
        "first": Path("/proc/1/cmdline").read_bytes().split(b"\0")[0].decode(),
        "status": status(pid),
        "writable": [path for path in TRIED if writable(path)],
        "mounts": {point: points[point] for point in ("/", "/tmp") if point in points},
        "tmp_bytes": space.f_blocks * space.f_frsize,
        "limits": {name: limit(names) for name, names in LIMITS.items()},
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
