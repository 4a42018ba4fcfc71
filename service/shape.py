"""The resolved extents of one analysis."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Shape:
    """Extents of query (batch, heads, query_length, d_k) and its companions.

    `d_k` and `d_v` are None where the inputs are logits or weights, or no value is given.
    `query_rank` is the rank that the caller's query had, so that answers drop the same axes.
    """

    batch: int
    heads: int
    kv_heads: int
    query_length: int
    key_length: int
    d_k: int | None
    d_v: int | None
    query_rank: int

    @property
    def group(self) -> int:
        """Query heads that share one key/value head."""
        return self.heads // self.kv_heads

    @property
    def rows(self) -> int:
        """Rows of the weights over all batch items and heads."""
        return self.batch * self.heads * self.query_length

    @property
    def logits(self) -> int:
        """Elements of the weights."""
        return self.rows * self.key_length
