"""Which devices compute here."""

import os
from dataclasses import dataclass

import torch

from service.errors import UnavailableDevice
from service.operands import DTYPES


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """One device: its name in requests, what it is, and its memory where that is known."""

    name: str
    description: str
    dtypes: tuple[str, ...]
    memory_bytes: int | None


def usable_cores() -> int:
    """Cores this process may use: the affinity, and the CPU quota of its control group."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:  # noqa: PTH123 - a kernel file
            quota, period = file.read().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))


def available() -> list[DeviceInfo]:
    """The CPU, and every CUDA device."""
    found = [DeviceInfo("cpu", torch.backends.cpu.get_cpu_capability(), tuple(DTYPES), None)]
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(index)
        name, memory = f"cuda:{index}", properties.total_memory
        found.append(DeviceInfo(name, properties.name, tuple(DTYPES), memory))
    return found


def gpu_memory() -> dict[tuple[str, str], int]:
    """Bytes that torch's allocator has allocated and reserved, by device and state.

    Of GPUs in use only: asking must not wake one. On the CPU torch keeps no account.
    """
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return {}
    read = {"allocated": torch.cuda.memory_allocated, "reserved": torch.cuda.memory_reserved}
    return {
        (f"cuda:{index}", state): ask(index)
        for index in range(torch.cuda.device_count())
        for state, ask in read.items()
    }


def resolve(name: str) -> torch.device:
    """The device a request asks for; `auto` prefers CUDA.

    Raises:
        UnavailableDevice: this machine has no such device.
    """
    cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda:0" if cuda else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= cuda:
        names = ", ".join(info.name for info in available())
        raise UnavailableDevice(
            f"device {name} is not available; available are auto, {names}",
            pointer="/compute/device",
        )
    return device
