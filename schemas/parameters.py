"""The learned weights of a mechanism: given, or drawn from a seed of their own."""

from typing import Annotated, Literal

from pydantic import Field

from schemas.strict import Strict
from schemas.tensors import NumberTensor

Extent = Annotated[int, Field(ge=1)]


def _is_weight(name: object) -> bool:
    return isinstance(name, str) and name.endswith(("weight", "vector", "bias"))


def parameters_form(value: object) -> str | None:
    """The tag of a parameters object; where it says nothing, given if it holds weights."""
    if isinstance(value, dict):
        form = value.get("kind", "given" if any(map(_is_weight, value)) else "seeded")
        return form if isinstance(form, str) else None
    return getattr(value, "kind", None)


class SeededWeights(Strict):
    """Normal weights over the square root of their input dimension, biases absent.

    `g = torch.Generator().manual_seed(1_000_000_000 + seed)`, then
    `torch.randn(out, in, generator=g) / sqrt(in)` in the order of the mechanism's table, so that
    what is projected keeps its variance; weights of variance 1 would saturate everything, and from
    the inputs' own stream they would be the first inputs.
    """

    kind: Literal["seeded"] = "seeded"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


class SeededParameters(SeededWeights):
    """Seeded weights of a score with a hidden layer; the score vector is over sqrt(hidden_dim)."""

    hidden_dim: Extent | None = Field(
        None, description="Hidden dimension of additive and concat scores; absent = d_k."
    )


class AdditiveParameters(Strict):
    """vᵀ tanh(W_q q + W_k k + b)."""

    kind: Literal["given"] = "given"
    query_weight: NumberTensor = Field(description="W_q (hidden_dim, d_q).")
    key_weight: NumberTensor = Field(description="W_k (hidden_dim, d_k).")
    score_vector: NumberTensor = Field(description="v (hidden_dim).")
    bias: NumberTensor | None = Field(None, description="b (hidden_dim); absent = 0.")


class MultiplicativeParameters(Strict):
    """general: qᵀ W k; concat: vᵀ tanh(W [q; k])."""

    kind: Literal["given"] = "given"
    weight: NumberTensor = Field(description="general (d_q, d_k); concat (hidden_dim, d_q + d_k).")
    score_vector: NumberTensor | None = Field(None, description="concat only: v (hidden_dim).")


class MultiHeadParameters(Strict):
    """Projections applied as x Wᵀ + b."""

    kind: Literal["given"] = "given"
    query_weight: NumberTensor = Field(description="(heads · d_k, model_dim).")
    key_weight: NumberTensor = Field(description="(kv_heads · d_k, key_dim).")
    value_weight: NumberTensor = Field(description="(kv_heads · d_v, value_dim).")
    output_weight: NumberTensor = Field(description="(output_dim, heads · d_v).")
    query_bias: NumberTensor | None = Field(None, description="(heads · d_k).")
    key_bias: NumberTensor | None = Field(None, description="(kv_heads · d_k).")
    value_bias: NumberTensor | None = Field(None, description="(kv_heads · d_v).")
    output_bias: NumberTensor | None = Field(None, description="(output_dim).")
