"""Scaled dot-product attention."""

from collections.abc import Mapping

from torch import Tensor

from schemas.mechanisms import ScaledDotProduct as Request
from service.mechanisms.base import Description, Mechanism, Prepared, operand
from service.mechanisms.dot_products import DotProducts, normalize, scale_of
from service.operands import Operands
from service.shape import Shape


class ScaledDotProduct(Mechanism[Request]):
    """score(q, k) = q·k, scaled by 1/sqrt(d_k)."""

    description = Description(
        name="scaled_dot_product",
        meaning="Similarity of query and key by their dot product, whose variance for independent "
        "unit-variance entries is d_k; the scale 1/sqrt(d_k) brings it back to 1.",
        formula="softmax(q kᵀ / sqrt(d_k)) value",
        shapes="query (batch, heads, N, d_k), key (batch, kv_heads, M, d_k), value (batch, "
        "kv_heads, M, d_v)",
        source="Vaswani et al. 2017, Attention Is All You Need, arXiv 1706.03762, equation 1",
    )

    def scores_products(self, request: Request) -> bool:
        """Always."""
        return True

    def default_scale(self, request: Request, shape: Shape) -> float:
        """1/sqrt(d_k), or sqrt(d_k) of unit vectors."""
        return scale_of(request.qk_norm, shape.d_k or 1)

    def prepare(
        self,
        request: Request,
        operands: Operands,
        parameters: Mapping[str, Tensor],
        shape: Shape,
    ) -> Prepared:
        """Dot products of the operands as they are, or normalised."""
        query = normalize(operand(operands.query), request.qk_norm)
        key = normalize(operand(operands.key), request.qk_norm)
        return Prepared(query, key, operand(operands.value), DotProducts.of(query, key))

    def flops(self, request: Request, shape: Shape) -> int:
        """A multiplication and an addition for each dimension of each pair."""
        return 2 * shape.logits * (shape.d_k or 0)

    def projected_elements(self, request: Request, shape: Shape) -> int:
        """Normalised copies of query and key, and what they are made through."""
        if request.qk_norm == "none":
            return 0
        return 7 * (shape.rows + shape.keys) * (shape.d_k or 0)
