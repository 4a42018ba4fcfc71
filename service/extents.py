"""The extents of the inputs as they lie, from the request alone: nothing is allocated."""

from torch import Tensor

from schemas.inputs import LogitInputs, SeededInputs, TensorInputs, WeightInputs
from service.errors import ShapeMismatch
from service.shape import Shape

AnyInputs = SeededInputs | TensorInputs | LogitInputs | WeightInputs
_DEFAULT_MODEL_DIM = 512
REPLACED = ("heads", "kv_heads", "d_q", "d_k", "d_v")
"""What inputs of the model's dimension have `model_dim` in place of."""


def shape_of(inputs: AnyInputs, *, undivided: bool = False) -> Shape:
    """Resolve the extents of the inputs.

    Args:
        inputs: as validated.
        undivided: whether they have the model's dimension and no heads of their own.

    Raises:
        ShapeMismatch: extents that do not fit together.
    """
    if isinstance(inputs, SeededInputs):
        return _undivided_shape(inputs) if undivided else _seeded_shape(inputs)
    if isinstance(inputs, TensorInputs):
        return _tensor_shape(inputs, undivided=undivided)
    return _given_shape(inputs)


def _undivided_shape(inputs: SeededInputs) -> Shape:
    for name in REPLACED:
        if name in inputs.model_fields_set and getattr(inputs, name) is not None:
            raise ShapeMismatch(
                f"multi_head draws (batch, length, model_dim): {name} follows from model_dim and "
                "the mechanism's heads and is not given here",
                pointer=f"/inputs/{name}",
            )
    key_length = inputs.query_length if inputs.key_length is None else inputs.key_length
    dim = _DEFAULT_MODEL_DIM if inputs.model_dim is None else inputs.model_dim
    shape = Shape(inputs.batch, 1, 1, inputs.query_length, key_length, dim, dim, dim, 3)
    return _checked_self(inputs, shape)


def _seeded_shape(inputs: SeededInputs) -> Shape:
    kv_heads = inputs.heads if inputs.kv_heads is None else inputs.kv_heads
    key_length = inputs.query_length if inputs.key_length is None else inputs.key_length
    d_v = inputs.d_k if inputs.d_v is None else inputs.d_v
    if inputs.model_dim is not None:
        raise ShapeMismatch(
            "model_dim is for multi_head, whose inputs have no heads of their own; give heads and "
            "d_k instead",
            pointer="/inputs/model_dim",
        )
    d_q = inputs.d_k if inputs.d_q is None else inputs.d_q
    lengths = inputs.query_length, key_length
    shape = Shape(inputs.batch, inputs.heads, kv_heads, *lengths, d_q, inputs.d_k, d_v, 4)
    return _checked_self(inputs, _checked_heads(shape))


def _checked_self(inputs: SeededInputs, shape: Shape) -> Shape:
    key = (shape.kv_heads, shape.key_length, shape.d_k, shape.d_v)
    if inputs.self_attention and key != (shape.heads, shape.query_length, shape.d_q, shape.d_q):
        raise ShapeMismatch(
            "self_attention draws the query only, so kv_heads, key_length, d_q and d_v must be "
            "absent or equal to heads, query_length, d_k and d_k",
            pointer="/inputs/self_attention",
        )
    return shape


def _checked_heads(shape: Shape) -> Shape:
    if shape.heads % shape.kv_heads:
        raise ShapeMismatch(
            f"query heads must be a multiple of key/value heads; found {shape.heads} query heads "
            f"and {shape.kv_heads} key/value heads",
            pointer="/inputs",
        )
    return shape


def _tensor_shape(inputs: TensorInputs, *, undivided: bool) -> Shape:
    query, key, value = _companions(inputs)
    rank = query.dim()
    if undivided and rank not in (2, 3):
        raise ShapeMismatch(
            f"multi_head takes rank 2 (length, model_dim) or 3 (batch, length, model_dim), before "
            f"any split into heads; found rank {rank} with shape {list(query.shape)}",
            pointer="/inputs/query",
        )
    if rank not in (2, 3, 4):
        raise ShapeMismatch(
            f"query must have rank 2 (length, dim), 3 (batch, length, dim) or 4 (batch, head, "
            f"length, dim); found rank {rank} with shape {list(query.shape)}",
            pointer="/inputs/query",
        )
    for name, tensor in (("key", key), ("value", value)):
        if tensor.dim() != rank:
            raise ShapeMismatch(
                f"query, key and value must have the same rank; found query {list(query.shape)} "
                f"and {name} {list(tensor.shape)}",
                pointer=f"/inputs/{name}",
            )
    q, k, v = (four(t).shape for t in (query, key, value))
    _same("batch", "query", q[0], "key", k[0])
    _same("batch", "query", q[0], "value", v[0])
    _same("heads", "key", k[1], "value", v[1])
    _same("length", "key", k[2], "value", v[2])
    if 0 in (*q, *k, *v):
        raise ShapeMismatch(
            f"no axis may be empty; found query {list(query.shape)}, key {list(key.shape)} and "
            f"value {list(value.shape)}",
            pointer="/inputs",
        )
    return _checked_heads(Shape(q[0], q[1], k[1], q[2], k[2], q[3], k[3], v[3], rank))


def _companions(inputs: TensorInputs) -> tuple[Tensor, Tensor, Tensor]:
    key = inputs.query if inputs.key is None else inputs.key
    return inputs.query, key, key if inputs.value is None else inputs.value


def _same(axis: str, left: str, left_extent: int, right: str, right_extent: int) -> None:
    if left_extent != right_extent:
        raise ShapeMismatch(
            f"{axis} of {left} and {right} must be equal; found {left_extent} and {right_extent}",
            pointer=f"/inputs/{right}",
        )


def _given_shape(inputs: LogitInputs | WeightInputs) -> Shape:
    name = inputs.kind
    given: Tensor = inputs.logits if isinstance(inputs, LogitInputs) else inputs.weights
    if given.dim() not in (2, 3, 4):
        raise ShapeMismatch(
            f"{name} must have rank 2 (query, key), 3 (batch, query, key) or 4 (batch, head, "
            f"query, key); found rank {given.dim()} with shape {list(given.shape)}",
            pointer=f"/inputs/{name}",
        )
    batch, heads, query_length, key_length = four(given).shape
    kv_heads, d_v = heads, None
    if inputs.value is not None:
        value: Tensor = inputs.value
        if value.dim() != given.dim():
            raise ShapeMismatch(
                f"{name} and value must have the same rank; found {list(given.shape)} and "
                f"{list(value.shape)}",
                pointer="/inputs/value",
            )
        v = four(value).shape
        _same("batch", name, batch, "value", v[0])
        _same("key length", name, key_length, "value", v[2])
        kv_heads, d_v = v[1], v[3]
    if 0 in given.shape or d_v == 0 or kv_heads == 0:
        raise ShapeMismatch(
            f"no axis may be empty; found {name} {list(given.shape)}", pointer=f"/inputs/{name}"
        )
    return _checked_heads(
        Shape(batch, heads, kv_heads, query_length, key_length, None, None, d_v, given.dim())
    )


def four(tensor: Tensor) -> Tensor:
    """View a tensor of rank 2 or 3 at rank 4: (length, dim) and (batch, length, dim)."""
    if tensor.dim() == 2:
        return tensor[None, None]
    return tensor[:, None] if tensor.dim() == 3 else tensor
