"""Additive attention."""

from collections.abc import Mapping

from torch import Tensor

from schemas.mechanisms import Additive as Request
from schemas.parameters import AdditiveParameters
from service.mechanisms.additive_scores import (
    AdditiveScores,
    hidden_dim,
    saturated_units,
    score_bound,
    tile_elements,
)
from service.mechanisms.base import Description, MeanOf, Mechanism, Prepared, operand
from service.mechanisms.projections import project
from service.operands import Operands
from service.parameters import Parameter
from service.shape import Shape


class Additive(Mechanism[Request]):
    """score(q, k) = vᵀ tanh(W_q q + W_k k + b)."""

    description = Description(
        name="additive",
        meaning="A small network compares query and key. Its tanh saturates like the softmax "
        "behind it, and its scores never pass the sum of |v|: it can saturate twice.",
        formula="softmax(vᵀ tanh(W_q q + W_k k + b)) value",
        shapes="query (batch, heads, N, d_q), key (batch, kv_heads, M, d_k), value (batch, "
        "kv_heads, M, d_v); the weights are shared by all heads",
        source="Bahdanau, Cho and Bengio 2014, arXiv 1409.0473, appendix A.1.2",
        parameters=(
            "query_weight (hidden_dim, d_q)",
            "key_weight (hidden_dim, d_k)",
            "score_vector (hidden_dim)",
            "bias (hidden_dim), optional",
        ),
    )

    def default_scale(self, request: Request, shape: Shape) -> float:
        """1: the paper scales nothing."""
        return 1.0

    def parameters(self, request: Request, shape: Shape) -> tuple[Parameter, ...]:
        """W_q, W_k, v, b."""
        hidden, d_q, d_k = _hidden(request, shape), shape.d_q or 1, shape.d_k or 1
        return (
            Parameter("query_weight", (hidden, d_q), d_q),
            Parameter("key_weight", (hidden, d_k), d_k),
            Parameter("score_vector", (hidden,), hidden),
            Parameter("bias", (hidden,), drawn=False),
        )

    def prepare(
        self,
        request: Request,
        operands: Operands,
        parameters: Mapping[str, Tensor],
        shape: Shape,
    ) -> Prepared:
        """W_q q + b and W_k k, each once."""
        bias = parameters.get("bias")
        check = operands.checkpoint
        query = project(operand(operands.query), parameters["query_weight"], bias, checkpoint=check)
        key = project(operand(operands.key), parameters["key_weight"], checkpoint=check)
        vector = parameters["score_vector"]
        return Prepared(
            query,
            key,
            operand(operands.value),
            AdditiveScores.of(query, key, vector, operands.checkpoint),
            constants=score_bound(vector),
        )

    def remark(
        self,
        request: Request,
        shape: Shape,
        figures: MeanOf,
    ) -> str | None:
        """Whether the hidden units saturate."""
        return saturated_units(figures)

    def flops(self, request: Request, shape: Shape) -> int:
        """Two projections; an addition, a tanh and a product for each hidden unit of each pair."""
        hidden = _hidden(request, shape)
        projections = 2 * hidden * (shape.rows * (shape.d_q or 0) + shape.keys * (shape.d_k or 0))
        return projections + 30 * shape.logits * hidden

    def projected_elements(self, request: Request, shape: Shape) -> int:
        """W_q q + b before and after the bias, and W_k k."""
        return _hidden(request, shape) * (2 * shape.rows + shape.keys)

    def tile_elements(self, request: Request, shape: Shape) -> int:
        """One tile of hidden units."""
        return tile_elements(_hidden(request, shape))


def _hidden(request: Request, shape: Shape) -> int:
    source = request.parameters
    if isinstance(source, AdditiveParameters):
        return hidden_dim(source.query_weight, None, shape)
    return hidden_dim(None, source.hidden_dim, shape)
