"""Luong's multiplicative attention: dot, general and concat."""

from collections.abc import Mapping

from torch import Tensor

from schemas.mechanisms import Multiplicative as Request
from schemas.parameters import MultiplicativeParameters
from schemas.strict import Strict
from service.errors import Invalid
from service.mechanisms.additive_scores import (
    AdditiveScores,
    hidden_dim,
    saturated_units,
    score_bound,
    tile_elements,
)
from service.mechanisms.base import Description, MeanOf, Mechanism, Prepared, operand
from service.mechanisms.dot_products import DotProducts, normalize, scale_of
from service.mechanisms.projections import project
from service.operands import Operands
from service.parameters import POINTER, Parameter
from service.shape import Shape


class Multiplicative(Mechanism[Request]):
    """score(q, k) = q·k, qᵀ W k, or vᵀ tanh(W [q; k])."""

    description = Description(
        name="multiplicative",
        meaning="Dot products as they are (dot), through a learned matrix (general), or a small "
        "network on query and key joined (concat). Unscaled, as in the paper: the variance of dot "
        "scores grows with d_k, which 1/sqrt(d_k) would mend.",
        formula="softmax(score(q, k)) value; dot q·k, general qᵀ W k, concat vᵀ tanh(W [q; k])",
        shapes="query (batch, heads, N, d_q), key (batch, kv_heads, M, d_k), value (batch, "
        "kv_heads, M, d_v); the weights are shared by all heads; dot needs d_q = d_k",
        source="Luong, Pham and Manning 2015, arXiv 1508.04025, section 3.1",
        parameters=(
            "general: weight (d_q, d_k)",
            "concat: weight (hidden_dim, d_q + d_k), score_vector (hidden_dim)",
        ),
    )

    def resolve(self, request: Request, given: Shape) -> Shape:
        """Refuse weights where dot has none, and a hidden layer where there is none."""
        if request.score == "dot" and isinstance(request.parameters, MultiplicativeParameters):
            raise Invalid("score dot has no weights; general and concat have", pointer=POINTER)
        source = request.parameters
        hidden = None if isinstance(source, MultiplicativeParameters) else source.hidden_dim
        if request.score != "concat" and hidden is not None:
            raise Invalid(
                f"hidden_dim is of concat scores; score is {request.score}",
                pointer=f"{POINTER}/hidden_dim",
            )
        return super().resolve(request, given)

    def scores_products(self, request: Request) -> bool:
        """With score dot."""
        return request.score == "dot"

    def scores_projected_products(self, request: Request) -> bool:
        """General, too: W is in the keys."""
        return request.score in ("dot", "general")

    def default_scale(self, request: Request, shape: Shape) -> float:
        """1, as in the paper; sqrt(d_k) for unit vectors."""
        return scale_of("l2", shape.d_k or 1) if request.qk_norm == "l2" else 1.0

    def source(self, request: Request) -> Strict | None:
        """None for dot."""
        return None if request.score == "dot" else request.parameters

    def parameters(self, request: Request, shape: Shape) -> tuple[Parameter, ...]:
        """W, and v for concat."""
        d_q, d_k = shape.d_q or 1, shape.d_k or 1
        if request.score == "dot":
            return ()
        if request.score == "general":
            return (Parameter("weight", (d_q, d_k), d_k),)
        hidden = _hidden(request, shape)
        return (
            Parameter("weight", (hidden, d_q + d_k), d_q + d_k),
            Parameter("score_vector", (hidden,), hidden),
        )

    def prepare(
        self,
        request: Request,
        operands: Operands,
        parameters: Mapping[str, Tensor],
        shape: Shape,
    ) -> Prepared:
        """General projects the keys to the queries' space; concat is additive with W split."""
        query, key, value = (operand(t) for t in (operands.query, operands.key, operands.value))
        check = operands.checkpoint
        if request.score == "concat":
            weight, vector = parameters["weight"], parameters["score_vector"]
            d_q = query.shape[-1]
            query = project(query, weight[:, :d_q], checkpoint=check)
            key = project(key, weight[:, d_q:], checkpoint=check)
            scorer = AdditiveScores.of(query, key, vector, check)
            return Prepared(query, key, value, scorer, constants=score_bound(vector))
        if request.score == "general":
            key = project(key, parameters["weight"], checkpoint=check)
        else:
            query, key = normalize(query, request.qk_norm), normalize(key, request.qk_norm)
        return Prepared(query, key, value, DotProducts.of(query, key))

    def flops(self, request: Request, shape: Shape) -> int:
        """Products, and the projections of general and concat."""
        d_q, d_k = shape.d_q or 0, shape.d_k or 0
        if request.score == "concat":
            hidden = _hidden(request, shape)
            return 2 * hidden * (shape.rows * d_q + shape.keys * d_k) + 30 * shape.logits * hidden
        projection = 2 * shape.keys * d_q * d_k if request.score == "general" else 0
        return projection + 2 * shape.logits * d_q

    def remark(self, request: Request, shape: Shape, figures: MeanOf) -> str | None:
        """What 1/sqrt(d_k) would change, where dot is left unscaled."""
        if request.score == "concat":
            return saturated_units(figures)
        if request.score != "dot" or request.scale is not None or request.qk_norm != "none":
            return None
        d_k = shape.d_k or 1
        said = (
            f"dot scores are unscaled (scale 1), as in the paper; 1/sqrt(d_k) = {d_k**-0.5:.4g} "
            f"would divide their variance by d_k = {d_k}"
        )
        variance = figures("score_variance")
        if variance is not None:
            said += f", here from {variance:.4g} to {variance / d_k:.4g}"
        return said + '. mechanism.scale sets it, and kind "scaled_dot_product" has it.'

    def projected_elements(self, request: Request, shape: Shape) -> int:
        """Projected or normalised operands."""
        if request.score == "concat":
            return _hidden(request, shape) * (shape.rows + shape.keys)
        if request.score == "general":
            return shape.keys * (shape.d_q or 0)
        return 0 if request.qk_norm == "none" else 7 * (shape.rows + shape.keys) * (shape.d_k or 0)

    def tile_elements(self, request: Request, shape: Shape) -> int:
        """One tile of hidden units, for concat."""
        return tile_elements(_hidden(request, shape)) if request.score == "concat" else 0


def _hidden(request: Request, shape: Shape) -> int:
    source = request.parameters
    if isinstance(source, MultiplicativeParameters):
        return hidden_dim(source.weight, None, shape)
    return hidden_dim(None, source.hidden_dim, shape)
