"""What one panel of a heat map shows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from service.pictures.pixels import Raster

Labels = Sequence[str] | None


@dataclass(frozen=True, slots=True, eq=False)
class Panel:
    """Attention weights (query, key) of one head, on the CPU, and what stands beside them.

    `hidden` (query, key) is True where a mask hides the key. Labels are shown where every panel has
    one for each position and room for all of them.
    """

    title: str
    weights: Tensor
    hidden: Tensor | None = None
    query_labels: Labels = None
    key_labels: Labels = None

    @property
    def positions(self) -> tuple[int, int]:
        """Queries and keys."""
        queries, keys = self.weights.shape
        return queries, keys

    @property
    def labels(self) -> tuple[Labels, Labels]:
        """Of the queries and of the keys."""
        return self.query_labels, self.key_labels

    def like(self, other: "Panel") -> bool:
        """Whether the axes of both have the same ticks."""
        return self.positions == other.positions and self.labels == other.labels

    def raster(self, size: tuple[int, int]) -> Raster:
        """The weights in a panel of that height and width, in pixels."""
        weights = self.weights.detach().to(torch.float32).numpy()
        hidden = None if self.hidden is None else self.hidden.numpy().astype(np.bool_, copy=False)
        return Raster.of(weights, hidden, *size)
