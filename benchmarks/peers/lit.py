"""LitServe: an API class with its four steps, JSON in and out."""

import sys
from typing import Any

import litserve
import torch
from attend import attend, seeded


class Attention(litserve.LitAPI):
    """Attention of given tensors, or of ones drawn from a seed."""

    def setup(self, device: str) -> None:
        """There is no model to load."""
        self.device = device

    def decode_request(self, request: dict[str, Any]) -> tuple[tuple[torch.Tensor, ...], bool]:
        """Tensors, and whether the weights are wanted."""
        if "seed" in request:
            return seeded(**request), True
        tensors = (torch.tensor(request[name]) for name in ("query", "key", "value"))
        return tuple(tensors), request.get("weights", True)

    def predict(self, given: tuple[tuple[torch.Tensor, ...], bool]) -> dict[str, torch.Tensor]:
        """The job."""
        tensors, weights = given
        return attend(*tensors, weights=weights)

    def encode_response(self, found: dict[str, torch.Tensor]) -> dict[str, Any]:
        """Nested lists."""
        return {name: tensor.tolist() for name, tensor in found.items()}


if __name__ == "__main__":
    server = litserve.LitServer(
        Attention(api_path="/attention"), accelerator="cpu", workers_per_device=1, timeout=120
    )
    server.run(
        host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning"
    )
