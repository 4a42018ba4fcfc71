"""Twenty lines of Starlette: raw bytes in and out, and no check of anything."""

import sys

import torch
import uvicorn
from attend import attend
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


async def attention(request: Request) -> Response:
    """Query, key and value of one length or two, one after the other; all tensors likewise."""
    batch, heads, queries, keys, dim = map(int, request.query_params["shape"].split(","))
    flat = torch.frombuffer(bytearray(await request.body()), dtype=torch.float32)
    sizes = [batch * heads * length * dim for length in (queries, keys, keys)]
    tensors = (part.view(batch, heads, -1, dim) for part in flat.split(sizes))
    found = attend(*tensors, weights=request.query_params["weights"] == "true")
    return Response(b"".join(tensor.numpy().tobytes() for tensor in found.values()))


async def ready(_: Request) -> Response:
    """It serves."""
    return Response()


app = Starlette(routes=[Route("/attention", attention, methods=["POST"]), Route("/ready", ready)])

if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), log_level="warning")
