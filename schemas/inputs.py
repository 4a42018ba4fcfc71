"""What attention runs on: tensors, a seed and a shape, or what a framework already computed."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from schemas.strict import Strict
from schemas.tensors import LogitTensor, NumberTensor

Extent = Annotated[int, Field(ge=1)]


class SeededInputs(Strict):
    """Normal query, key and value drawn from a seed, reproducible with three lines of PyTorch.

    `g = torch.Generator().manual_seed(seed)`, then `torch.randn(shape, generator=g)` for query
    (batch, heads, query_length, d_q), key (batch, kv_heads, key_length, d_k) and value
    (batch, kv_heads, key_length, d_v), in that order. For multi_head, (batch, length, model_dim).
    """

    # The default is for an absent `inputs`; given ones name their kind.
    model_config = ConfigDict(json_schema_extra={"required": ["kind"]})

    kind: Literal["seeded"] = "seeded"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    batch: Extent = 1
    heads: Extent = 1
    kv_heads: Extent | None = Field(None, description="Key/value heads; absent = heads.")
    query_length: Extent = 16
    key_length: Extent | None = Field(None, description="Absent = query_length.")
    d_q: Extent | None = Field(
        None, description="Query dimension; absent = d_k, which dot products need."
    )
    d_k: Extent = 64
    d_v: Extent | None = Field(None, description="Value dimension; absent = d_k.")
    model_dim: Extent | None = Field(
        None,
        description="multi_head only, in place of heads, kv_heads, d_q, d_k and d_v; absent = 512.",
    )
    mean: Annotated[float, Field(ge=-1e6, le=1e6)] = 0.0
    std: Annotated[float, Field(ge=0, le=1e6)] = 1.0
    self_attention: bool = Field(
        default=False, description="Draw the query only: key = value = query."
    )


class TensorInputs(Strict):
    """Tensors of rank 4 (batch, head, length, dim), 3 (batch, length, dim) or 2 (length, dim).

    multi_head takes rank 3 (batch, length, model_dim) or 2 (length, model_dim).
    """

    kind: Literal["tensors"]
    query: NumberTensor
    key: NumberTensor | None = Field(None, description="Absent = query (self-attention).")
    value: NumberTensor | None = Field(None, description="Absent = key.")


class LogitInputs(Strict):
    """What enters the softmax, already computed: (…, query, key); minus infinity = forbidden."""

    kind: Literal["logits"]
    logits: LogitTensor
    value: NumberTensor | None = None


class WeightInputs(Strict):
    """Attention weights as a framework returns them (`output_attentions`): (…, query, key)."""

    kind: Literal["weights"]
    weights: NumberTensor
    value: NumberTensor | None = None


Inputs = Annotated[
    SeededInputs | TensorInputs | LogitInputs | WeightInputs, Field(discriminator="kind")
]
