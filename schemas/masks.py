"""Which keys a query may see."""

from typing import Annotated, Literal

from pydantic import Field

from schemas.strict import Strict
from schemas.tensors import BooleanTensor, Lengths, LogitTensor, Position


class Window(Strict):
    """Keys from `left` before to `right` after the query's own position; absent = unbounded."""

    left: Annotated[int, Field(ge=0, le=2**40)] | None = None
    right: Annotated[int, Field(ge=0, le=2**40)] | None = None


class Mask(Strict):
    """Masks combine by AND: a key is visible where every one of them allows it."""

    causal: Literal["none", "upper_left", "lower_right"] = Field(
        "none",
        description="Both allow key j <= i + offset. upper_left: the offset given, else 0 "
        "(is_causal of F.scaled_dot_product_attention). lower_right takes no offset: it is "
        "key_lengths[b] - query length, or key length - query length without key_lengths, so that "
        "the last query stands at its item's last real key.",
    )
    offset: Position | None = Field(
        None,
        description="Position of query 0 among the keys: one integer, or one per batch item "
        "(the past length, with a key/value cache). May be negative.",
    )
    window: Window | None = None
    key_lengths: Lengths | None = Field(
        None, description="Keys at or past this are forbidden: one integer per batch item."
    )
    allowed: BooleanTensor | None = Field(
        None,
        description="True = may attend. Rank 2 (query or 1, key), 4 (batch or 1, head or 1, "
        "query, key) or 3: (head, query, key) for queries with a head axis, else (batch, …).",
    )
    bias: LogitTensor | None = Field(
        None, description="Added to the logits; minus infinity (JSON null) forbids. Ranks as above."
    )
    forbid_below: float | None = Field(
        None, description="Bias entries below this number are taken for minus infinity."
    )
