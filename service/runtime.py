"""Where an analysis runs, on which threads, and how it is told to stop."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from service.attention.workers import Workers


@dataclass(frozen=True, slots=True)
class Runtime:
    """A device, the threads that share its work, and a check that raises when it is unwanted."""

    device: torch.device
    workers: Workers
    checkpoint: Callable[[], None] = lambda: None
