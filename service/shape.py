"""The resolved extents of one analysis."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Model:
    """Feature dimensions of inputs that are projected to heads, and of the projected output."""

    query_dim: int
    key_dim: int
    value_dim: int
    output_dim: int


@dataclass(frozen=True, slots=True)
class Shape:
    """Extents of query (batch, heads, query_length, d_q) and its companions.

    `d_q`, `d_k` and `d_v` are None where the inputs are logits or weights, or no value is given.
    `query_rank` is the rank that the caller's query had, so that answers drop the same axes.
    `model` is None where the inputs have the heads themselves.
    """

    batch: int
    heads: int
    kv_heads: int
    query_length: int
    key_length: int
    d_q: int | None
    d_k: int | None
    d_v: int | None
    query_rank: int
    model: Model | None = None

    @property
    def group(self) -> int:
        """Query heads that share one key/value head."""
        return self.heads // self.kv_heads

    @property
    def rows(self) -> int:
        """Rows of the weights over all batch items and heads."""
        return self.batch * self.heads * self.query_length

    @property
    def keys(self) -> int:
        """Keys over all batch items and key/value heads."""
        return self.batch * self.kv_heads * self.key_length

    @property
    def logits(self) -> int:
        """Elements of the weights."""
        return self.rows * self.key_length

    @property
    def output_elements(self) -> int:
        """Elements of the output; 0 without a value."""
        if self.model is not None:
            return self.batch * self.query_length * self.model.output_dim
        return self.rows * (self.d_v or 0)
