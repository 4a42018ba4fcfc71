"""Where an analysis runs, on which threads, by which pass, and how it is told to stop."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from service.attention.native import library
from service.attention.native.library import Native
from service.attention.workers import Workers


def _available() -> Native | None:
    return library.available()


@dataclass(frozen=True, slots=True)
class Runtime:
    """A device, the threads that share its work, and a check that raises when it is unwanted.

    `native` is the compiled pass, or None for the eager one; other devices have only the latter.
    """

    device: torch.device
    workers: Workers
    checkpoint: Callable[[], None] = lambda: None
    native: Native | None = field(default_factory=_available)

    @property
    def pass_name(self) -> str:
        """Which pass computes here, as answers name it."""
        return pass_name(self.native, self.device)


def pass_name(native: Native | None, device: torch.device) -> str:
    """The compiled pass is of the CPU alone."""
    return "native" if native is not None and device.type == "cpu" else "eager"
