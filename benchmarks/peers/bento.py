"""BentoML: a service of tensors in JSON, and of files in multipart for L."""

from pathlib import Path
from typing import Any

import bentoml
import numpy as np
import torch
from attend import attend, seeded


def _lists(found: dict[str, torch.Tensor]) -> dict[str, Any]:
    return {name: tensor.tolist() for name, tensor in found.items()}


@bentoml.service(workers=1, traffic={"timeout": 120})
class Attention:
    """Attention of given tensors, or of ones drawn from a seed."""

    @bentoml.api
    def attention(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, weights: bool = True
    ) -> dict[str, Any]:
        """Nested lists in and out."""
        return _lists(attend(query.float(), key.float(), value.float(), weights=weights))

    @bentoml.api
    def seeded(self, seed: int, heads: int, queries: int, keys: int, dim: int) -> dict[str, Any]:
        """Of tensors drawn from a seed."""
        return _lists(attend(*seeded(seed, heads, queries, keys, dim)))

    @bentoml.api
    def files(self, query: Path, key: Path, value: Path) -> Path:
        """Of three arrays in files, without the weights; the answer is a file too."""
        tensors = (torch.from_numpy(np.load(file)) for file in (query, key, value))
        found = attend(*tensors, weights=False)
        answer = query.with_name("answer.npz")
        np.savez(answer, **{name: tensor.numpy() for name, tensor in found.items()})
        return answer
