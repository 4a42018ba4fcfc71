"""Triton through pytriton: three models bound to functions of arrays, its own HTTP in front."""

import signal
import sys

import numpy as np
import torch
from attend import FIGURES, attend, seeded
from pytriton.decorators import batch
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

_SEEDED = ("seed", "heads", "queries", "keys", "dim")


def _arrays(found: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in found.items()}


@batch
def attention(query: np.ndarray, key: np.ndarray, value: np.ndarray) -> dict[str, np.ndarray]:
    """With the weights."""
    return _arrays(attend(*map(torch.from_numpy, (query, key, value))))


@batch
def without_weights(query: np.ndarray, key: np.ndarray, value: np.ndarray) -> dict[str, np.ndarray]:
    """Without them."""
    return _arrays(attend(*map(torch.from_numpy, (query, key, value)), weights=False))


@batch
def from_seeds(**given: np.ndarray) -> dict[str, np.ndarray]:
    """Of tensors drawn from each request's seed."""
    asked = zip(*(given[name][:, 0].tolist() for name in _SEEDED), strict=True)
    drawn = zip(*(seeded(*numbers) for numbers in asked), strict=True)
    return _arrays(attend(*(torch.cat(tensors) for tensors in drawn)))


def main(port: int) -> None:
    """Serve until told to stop; only an interrupt lets it take its shared memory with it."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    tensors = [
        Tensor(name=n, dtype=np.float32, shape=(-1, -1, -1)) for n in ("query", "key", "value")
    ]
    numbers = [Tensor(name=name, dtype=np.int64, shape=(1,)) for name in _SEEDED]
    figures = [Tensor(name=name, dtype=np.float32, shape=(-1,)) for name in FIGURES]
    output, weights = (
        Tensor(name=name, dtype=np.float32, shape=(-1, -1, -1)) for name in ("output", "weights")
    )
    ports = {"http_port": port, "grpc_port": port + 1, "metrics_port": port + 2}
    with Triton(config=TritonConfig(http_address="127.0.0.1", allow_grpc=False, **ports)) as triton:
        config = ModelConfig(max_batch_size=16)
        for name, function, inputs, outputs in (
            ("attention", attention, tensors, [output, weights, *figures]),
            ("without_weights", without_weights, tensors, [output, *figures]),
            ("seeded", from_seeds, numbers, [output, weights, *figures]),
        ):
            triton.bind(name, function, inputs, outputs, config=config)
        triton.serve()


if __name__ == "__main__":
    main(int(sys.argv[1]))
