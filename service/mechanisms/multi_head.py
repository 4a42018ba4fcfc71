"""Multi-head attention on inputs of the model's dimension."""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from schemas.mechanisms import MultiHead as Request
from schemas.parameters import MultiHeadParameters
from service.errors import Invalid, ShapeMismatch
from service.mechanisms.base import Description, Mechanism, Prepared, operand
from service.mechanisms.dot_products import DotProducts, normalize, scale_of
from service.mechanisms.projections import project
from service.operands import Operands
from service.parameters import POINTER, Parameter
from service.shape import Model, Shape


class MultiHead(Mechanism[Request]):
    """Per head q·k/sqrt(d_k) of projected inputs; the heads' outputs are joined and projected."""

    description = Description(
        name="multi_head",
        meaning="Query, key and value of the model's dimension are projected to heads, each a "
        "scaled dot-product attention of its own, and projected back. Weights, diagnostics and "
        "verdict are per head. Fewer key/value heads are grouped-query attention, one is "
        "multi-query.",
        formula="concat_h(softmax(q_h k_hᵀ / sqrt(d_k)) value_h) W_oᵀ + b_o, q = x W_qᵀ + b_q "
        "split into heads",
        shapes="query (batch, N, model_dim), key (batch, M, key_dim), value (batch, M, value_dim), "
        "each also without batch; weights always (batch, heads, N, M)",
        source="Vaswani et al. 2017, arXiv 1706.03762, section 3.2.2; Shazeer 2019, 1911.02150; "
        "Ainslie et al. 2023, 2305.13245",
        parameters=(
            "query_weight (heads · d_k, model_dim)",
            "key_weight (kv_heads · d_k, key_dim)",
            "value_weight (kv_heads · d_v, value_dim)",
            "output_weight (output_dim, heads · d_v)",
            "query_bias, key_bias, value_bias, output_bias, optional",
            "torch.nn.MultiheadAttention's names, in safetensors: in_proj_weight, in_proj_bias, or",
            "q_proj_weight, k_proj_weight, v_proj_weight; out_proj.weight, out_proj.bias",
        ),
    )
    undivided = True

    def resolve(self, request: Request, given: Shape) -> Shape:
        """Split the projected dimensions into heads."""
        heads, kv_heads = request.heads, request.kv_heads or request.heads
        if heads % kv_heads:
            raise ShapeMismatch(
                f"heads must be a multiple of kv_heads; found {heads} and {kv_heads}",
                pointer="/mechanism/kv_heads",
            )
        dims = given.d_q or 1, given.d_k or 1, given.d_v or 1
        source = request.parameters
        if isinstance(source, MultiHeadParameters):
            if "heads" not in request.model_fields_set:
                raise Invalid(
                    "the weights do not tell how many heads they are divided among: heads must be "
                    "given with them",
                    pointer="/mechanism/heads",
                )
            d_k = _divided(source.query_weight, heads, "query_weight")
            d_v = _divided(source.value_weight, kv_heads, "value_weight")
            output_dim = int(_matrix(source.output_weight, "output_weight").shape[0])
        else:
            if dims[0] % heads:
                raise ShapeMismatch(
                    f"model_dim must be a multiple of heads; found {dims[0]} and {heads}",
                    pointer="/mechanism/heads",
                )
            d_k = d_v = dims[0] // heads
            output_dim = dims[0]
        model = Model(*dims, output_dim)
        return replace(
            given, heads=heads, kv_heads=kv_heads, d_q=d_k, d_k=d_k, d_v=d_v, model=model
        )

    def scores_projected_products(self, request: Request) -> bool:
        """Always, head by head."""
        return True

    def default_scale(self, request: Request, shape: Shape) -> float:
        """1/sqrt(d_k) of the head's dimension, or sqrt(d_k) of unit vectors."""
        return scale_of(request.qk_norm, shape.d_k or 1)

    def parameters(self, request: Request, shape: Shape) -> tuple[Parameter, ...]:
        """Projections in and out, and their biases."""
        model, d_k, d_v = _model(shape), shape.d_k or 1, shape.d_v or 1
        query, key = shape.heads * d_k, shape.kv_heads * d_k
        value, joined = shape.kv_heads * d_v, shape.heads * d_v
        return (
            Parameter("query_weight", (query, model.query_dim), model.query_dim),
            Parameter("key_weight", (key, model.key_dim), model.key_dim),
            Parameter("value_weight", (value, model.value_dim), model.value_dim),
            Parameter("output_weight", (model.output_dim, joined), joined),
            Parameter("query_bias", (query,), drawn=False),
            Parameter("key_bias", (key,), drawn=False),
            Parameter("value_bias", (value,), drawn=False),
            Parameter("output_bias", (model.output_dim,), drawn=False),
        )

    def prepare(
        self,
        request: Request,
        operands: Operands,
        parameters: Mapping[str, Tensor],
        shape: Shape,
    ) -> Prepared:
        """Project, split into heads, normalise where asked."""
        named = {"query": operands.query, "key": operands.key, "value": operands.value}
        split = {
            name: _split(
                project(
                    operand(tensor),
                    parameters[f"{name}_weight"],
                    parameters.get(f"{name}_bias"),
                    checkpoint=operands.checkpoint,
                ),
                shape.heads if name == "query" else shape.kv_heads,
            )
            for name, tensor in named.items()
        }
        query = normalize(split["query"], request.qk_norm)
        key = normalize(split["key"], request.qk_norm)

        def finish(heads: Tensor) -> Tensor:
            joined = heads.transpose(1, 2).flatten(2).unsqueeze(1).contiguous()
            return project(
                joined,
                parameters["output_weight"],
                parameters.get("output_bias"),
                checkpoint=operands.checkpoint,
            )

        return Prepared(query, key, split["value"], DotProducts.of(query, key), finish)

    def flops(self, request: Request, shape: Shape) -> int:
        """Four projections and the products of the heads."""
        model, d_k, d_v = _model(shape), shape.d_k or 0, shape.d_v or 0
        queries, keys = shape.batch * shape.query_length, shape.batch * shape.key_length
        key_side = shape.kv_heads * (d_k * model.key_dim + d_v * model.value_dim)
        query_side = shape.heads * (d_k * model.query_dim + d_v * model.output_dim)
        return 2 * (queries * query_side + keys * key_side + shape.logits * d_k)

    def projected_elements(self, request: Request, shape: Shape) -> int:
        """Projections before and after bias and split, normalised, and the joined heads."""
        model, d_k, d_v = _model(shape), shape.d_k or 0, shape.d_v or 0
        norm = 0 if request.qk_norm == "none" else 7
        query_side = shape.rows * (d_k * (3 + norm) + 3 * d_v)
        key_side = shape.keys * (d_k * (3 + norm) + 3 * d_v)
        inputs = shape.batch * (
            shape.query_length * (model.query_dim + 2 * model.output_dim)
            + shape.key_length * (model.key_dim + model.value_dim)
        )
        return query_side + key_side + inputs


def _model(shape: Shape) -> Model:
    if shape.model is None:
        message = "multi_head is resolved against the model's dimensions"
        raise TypeError(message)
    return shape.model


def _matrix(weight: Tensor, name: str) -> Tensor:
    if weight.dim() != 2 or 0 in weight.shape:
        raise ShapeMismatch(
            f"{name} must have rank 2 (out, in); found shape {list(weight.shape)}",
            pointer=f"{POINTER}/{name}",
        )
    return weight


def _divided(weight: Tensor, heads: int, name: str) -> int:
    rows = int(_matrix(weight, name).shape[0])
    if rows % heads:
        raise Invalid(
            f"the rows of {name} are divided among {heads} heads; found {rows}",
            pointer=f"{POINTER}/{name}",
        )
    return rows // heads


def _split(projected: Tensor, heads: int) -> Tensor:
    """(batch, 1, length, heads · dim) to (batch, heads, length, dim)."""
    batch, _, length, width = projected.shape
    return projected.view(batch, length, heads, width // heads).transpose(1, 2).contiguous()
