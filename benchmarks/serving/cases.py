"""What every server is asked to compute, and what the answer must be."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.peers.attend import FIGURES, attend, seeded

Array = npt.NDArray[np.float32]
SEED = 7


@dataclass(frozen=True, slots=True)
class Case:
    """A shape, whether the weights are in the answer, and whether a seed stands for the inputs."""

    name: str
    batch: int
    heads: int
    queries: int
    keys: int
    dim: int
    weights: bool
    seeded: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Batch, heads, queries, keys, dimension."""
        return self.batch, self.heads, self.queries, self.keys, self.dim

    @property
    def title(self) -> str:
        """As the tables name it."""
        told = "from a seed" if self.seeded else "weights too" if self.weights else "no weights"
        return f"{self.name}: {'×'.join(map(str, self.shape))}, {told}"


CASES = (
    Case("S", 1, 8, 10, 12, 64, weights=True),
    Case("D", 1, 8, 10, 12, 64, weights=True, seeded=True),
    Case("M", 2, 8, 128, 128, 64, weights=False),
    Case("L", 1, 8, 1024, 1024, 64, weights=False),
)


def inputs(case: Case) -> dict[str, Array]:
    """Query, key and value."""
    _, heads, queries, keys, dim = case.shape
    items = [seeded(SEED + item, heads, queries, keys, dim) for item in range(case.batch)]
    tensors = (torch.cat(parts) for parts in zip(*items, strict=True))
    return dict(zip(("query", "key", "value"), (t.numpy() for t in tensors), strict=True))


def check(case: Case, found: dict[str, Array]) -> None:
    """Every tensor and figure against the formula in float64.

    Raises:
        AssertionError: one is missing or wrong.
    """
    doubles = (torch.from_numpy(array).double() for array in inputs(case).values())
    expected = attend(*doubles, weights=case.weights)
    assert expected.keys() <= found.keys(), f"{case.name}: only {sorted(found)}"
    for name, tensor in expected.items():
        given = found[name]
        if name in FIGURES and given.ndim == 3:  # of each row
            given = given.mean(-1)
        np.testing.assert_allclose(given, tensor.numpy(), rtol=1e-3, atol=1e-4, err_msg=name)
