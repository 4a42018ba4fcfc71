"""Ray Serve: a deployment that is called with Starlette's request; JSON, or raw bytes for L."""

import signal
import sys
from typing import Any

import numpy as np
import ray
import torch
from attend import attend, seeded
from ray import serve
from starlette.requests import Request
from starlette.responses import Response


@serve.deployment(num_replicas=1)
class Attention:
    """Attention of given tensors, or of ones drawn from a seed."""

    async def __call__(self, request: Request) -> Any:
        """Lists for JSON, bytes for bytes."""
        if request.method == "GET":
            return "ready"
        if request.headers["content-type"] == "application/octet-stream":
            return self.raw(await request.body(), request.query_params["shape"])
        given = await request.json()
        if "seed" in given:
            found = attend(*seeded(**given))
        else:
            tensors = (torch.tensor(given[name]) for name in ("query", "key", "value"))
            found = attend(*tensors, weights=given.get("weights", True))
        return {name: tensor.tolist() for name, tensor in found.items()}

    def raw(self, body: bytes, shape: str) -> Response:
        """Query, key and value one after the other, the answer likewise."""
        batch, heads, queries, keys, dim = map(int, shape.split(","))
        flat = torch.from_numpy(np.frombuffer(body, np.float32).copy())
        sizes = [batch * heads * length * dim for length in (queries, keys, keys)]
        found = attend(
            *(part.view(batch, heads, -1, dim) for part in flat.split(sizes)), weights=False
        )
        return Response(b"".join(tensor.numpy().tobytes() for tensor in found.values()))


if __name__ == "__main__":
    ray.init(_node_ip_address="127.0.0.1", log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Attention.bind())
    signal.sigwait([signal.SIGTERM, signal.SIGINT])
    serve.shutdown()
    ray.shutdown()
