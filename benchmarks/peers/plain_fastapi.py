"""FastAPI with typed nested lists, as its tutorial writes request and response models."""

import sys

import torch
import uvicorn
from attend import attend, seeded
from fastapi import FastAPI
from pydantic import BaseModel

Nested = list[list[list[list[float]]]]


class Tensors(BaseModel):
    """Query, key and value."""

    query: Nested
    key: Nested
    value: Nested
    weights: bool = True


class Seed(BaseModel):
    """What they are drawn from."""

    seed: int
    heads: int
    queries: int
    keys: int
    dim: int


class Answer(BaseModel):
    """Output, weights and the figures of each head."""

    output: Nested
    weights: Nested | None = None
    entropy: list[list[float]]
    max_weight: list[list[float]]
    logit_variance: list[list[float]]


app = FastAPI()


def _answer(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, weights: bool
) -> Answer:
    found = attend(query, key, value, weights=weights)
    return Answer(**{name: tensor.tolist() for name, tensor in found.items()})


@app.get("/ready")
def ready() -> str:
    """It serves."""
    return "ready"


@app.post("/attention")
def attention(given: Tensors) -> Answer:
    """Of the tensors of the request."""
    tensors = (torch.tensor(nested) for nested in (given.query, given.key, given.value))
    return _answer(*tensors, weights=given.weights)


@app.post("/seeded")
def from_seed(given: Seed) -> Answer:
    """Of tensors drawn from a seed."""
    return _answer(*seeded(**given.model_dump()), weights=True)


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), log_level="warning")
