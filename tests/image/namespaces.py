"""Namespaces of the run's own, so that no mount, process, interface or rule outlives it."""

import ctypes
import fcntl
import os
import shutil
import socket
import struct
from contextlib import suppress
from pathlib import Path

from tests.image.command import Failed, run

_CLONE_NEWNET = 0x40000000
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1

# What podman, its runtime and its network plugins write whatever storage they are given.
_HIDDEN = (
    "/dev/shm",
    "/run/crun",
    "/run/runc",
    "/run/netns",
    "/run/libpod",
    "/var/lib/cni",
    "/var/lib/containers",
)
_MOUNTS = Path("/proc/self/mountinfo")
_CGROUPS = Path("/sys/fs/cgroup")


def is_root() -> bool:
    """Whether this process may make namespaces without more ado."""
    return os.geteuid() == 0


def wanted(engine: str) -> bool:
    """An engine that is a daemon has its own; podman without root makes its own."""
    return engine == "podman" and is_root()


def prefix() -> list[str]:
    """What to put before a command to give it mounts and processes of its own.

    The shell reaps what podman leaves behind; when it ends, the kernel ends everything.

    Raises:
        Failed: this machine cannot do that.
    """
    if shutil.which("unshare") is None:
        raise Failed("no program `unshare`; it is in util-linux")
    if not any(line.split()[4] == "/" for line in _MOUNTS.read_text().splitlines()):
        # Measured in a chroot: what is executed in a container would see the root outside it.
        raise Failed("this root directory is no mount point (a chroot?): containers need one")
    own = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    return [*own, "sh", "-c", '"$@"; exit "$?"', "sh"]


def settle() -> None:
    """Inside: hide what would be left behind, and the second cgroup hierarchy.

    crun refuses a machine with both kinds of cgroup controllers, as some virtual machines have.
    """
    for path in map(Path, _HIDDEN):
        path.mkdir(parents=True, exist_ok=True)
        run(["mount", "-t", "tmpfs", "tmpfs", str(path)])
    if os.path.ismount(_CGROUPS / "unified"):
        run(["umount", str(_CGROUPS / "unified")])


def private_network() -> None:
    """Move to a network with nothing but a loopback interface; bridges are made in it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "no network namespace")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh", b"lo", _IFF_UP))


def tidy_cgroups() -> None:
    """Afterwards: remove podman's groups, as far as nobody is in them."""
    for parent in [*_CGROUPS.glob("libpod_parent"), *_CGROUPS.glob("*/libpod_parent")]:
        for group in sorted(parent.glob("**/"), reverse=True):
            with suppress(OSError):
                group.rmdir()
