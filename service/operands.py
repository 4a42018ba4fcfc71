"""The tensors an analysis runs on: given, or drawn from a seed; checked, cast and placed."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from schemas.inputs import LogitInputs, SeededInputs, TensorInputs, WeightInputs
from service.errors import DtypeMismatch, Invalid, NonFinite, ShapeMismatch
from service.shape import Shape

AnyInputs = SeededInputs | TensorInputs | LogitInputs | WeightInputs

DTYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class Operands:
    """Rank-4 tensors in the compute dtype, and the dtype that the answer is given in.

    `query`, `key`: (batch, heads | kv_heads, length, d_k); `value`: (batch, kv_heads, M, d_v) or
    None; `given`: logits or weights (batch, heads, N, M) that replace the scores, or None.
    """

    query: Tensor | None
    key: Tensor | None
    value: Tensor | None
    given: Tensor | None
    answer_dtype: torch.dtype
    nonfinite: int


def shape_of(inputs: AnyInputs) -> Shape:
    """Resolve the extents from the request alone; nothing is allocated.

    Raises:
        ShapeMismatch: extents that do not fit together.
    """
    if isinstance(inputs, SeededInputs):
        return _seeded_shape(inputs)
    if isinstance(inputs, TensorInputs):
        return _tensor_shape(inputs)
    return _given_shape(inputs)


def _seeded_shape(inputs: SeededInputs) -> Shape:
    kv_heads = inputs.heads if inputs.kv_heads is None else inputs.kv_heads
    key_length = inputs.query_length if inputs.key_length is None else inputs.key_length
    d_v = inputs.d_k if inputs.d_v is None else inputs.d_v
    if inputs.d_q is not None and inputs.d_q != inputs.d_k:
        raise ShapeMismatch(
            f"a dot product needs d_q = d_k; found d_q {inputs.d_q} and d_k {inputs.d_k}",
            pointer="/inputs/d_q",
        )
    if inputs.self_attention and (kv_heads, key_length, d_v) != (
        inputs.heads,
        inputs.query_length,
        inputs.d_k,
    ):
        raise ShapeMismatch(
            "self_attention draws the query only, so kv_heads, key_length and d_v must be absent "
            "or equal to heads, query_length and d_k",
            pointer="/inputs/self_attention",
        )
    shape = Shape(
        inputs.batch, inputs.heads, kv_heads, inputs.query_length, key_length, inputs.d_k, d_v, 4
    )
    return _checked_heads(shape)


def _checked_heads(shape: Shape) -> Shape:
    if shape.heads % shape.kv_heads:
        raise ShapeMismatch(
            f"query heads must be a multiple of key/value heads; found {shape.heads} query heads "
            f"and {shape.kv_heads} key/value heads",
            pointer="/inputs",
        )
    return shape


def _tensor_shape(inputs: TensorInputs) -> Shape:
    query, key, value = _companions(inputs)
    rank = query.dim()
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
    _same("dim (d_k)", "query", q[3], "key", k[3])
    if 0 in (*q, *k, *v):
        raise ShapeMismatch(
            f"no axis may be empty; found query {list(query.shape)}, key {list(key.shape)} and "
            f"value {list(value.shape)}",
            pointer="/inputs",
        )
    return _checked_heads(Shape(q[0], q[1], k[1], q[2], k[2], q[3], v[3], rank))


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
        Shape(batch, heads, kv_heads, query_length, key_length, None, d_v, given.dim())
    )


def four(tensor: Tensor) -> Tensor:
    """View a tensor of rank 2 or 3 at rank 4: (length, dim) and (batch, length, dim)."""
    if tensor.dim() == 2:
        return tensor[None, None]
    return tensor[:, None] if tensor.dim() == 3 else tensor


def dtype_of(inputs: AnyInputs, cast: str | None) -> torch.dtype:
    """The dtype the answer is given in.

    Raises:
        DtypeMismatch: tensors of different dtypes and no dtype to cast them to.
    """
    if cast is not None:
        return DTYPES[cast]
    found = {name: tensor.dtype for name, tensor in _named(inputs).items()}
    if len(set(found.values())) > 1:
        listed = ", ".join(f"{name} {DTYPE_NAMES[dtype]}" for name, dtype in found.items())
        raise DtypeMismatch(
            f"the inputs must have one dtype unless compute.dtype casts them; found {listed}",
            pointer="/inputs",
        )
    return next(iter(found.values()), torch.float32)


def _named(inputs: AnyInputs) -> dict[str, Tensor]:
    names = ("query", "key", "value", "logits", "weights")
    return {n: t for n in names if isinstance(t := getattr(inputs, n, None), Tensor)}


def compute_dtype(answer_dtype: torch.dtype) -> torch.dtype:
    """float64 stays; everything else is computed in float32 (q·k in float16 overflows)."""
    return torch.float64 if answer_dtype == torch.float64 else torch.float32


def prepare(
    inputs: AnyInputs, *, cast: str | None, device: torch.device, nonfinite: str
) -> Operands:
    """Draw or take the tensors, refuse or count NaN and infinity, cast and place them.

    Raises:
        NonFinite: NaN or infinity, given or by the cast, where they are refused.
    """
    answer_dtype, refuse = dtype_of(inputs, cast), nonfinite == "refuse"
    named = draw(inputs) if isinstance(inputs, SeededInputs) else _named(inputs)
    count = sum(
        _count_nonfinite(name, tensor, refuse=refuse)
        + _count_overflow(name, tensor, answer_dtype, refuse=refuse)
        for name, tensor in named.items()
    )
    # What is one tensor stays one, so that self-attention is known as such after the cast.
    once = {id(t): _place(t, answer_dtype, device) for t in named.values()}
    placed = {n: once[id(t)] for n, t in named.items()}
    if isinstance(inputs, TensorInputs):
        placed.setdefault("key", placed["query"])
        placed.setdefault("value", placed["key"])
    return Operands(
        query=placed.get("query"),
        key=placed.get("key"),
        value=placed.get("value"),
        given=placed.get("logits", placed.get("weights")),
        answer_dtype=answer_dtype,
        nonfinite=count,
    )


def _place(tensor: Tensor, answer_dtype: torch.dtype, device: torch.device) -> Tensor:
    cast = tensor.to(device=device, dtype=answer_dtype).to(compute_dtype(answer_dtype))
    return four(cast).contiguous()


def draw(inputs: SeededInputs) -> dict[str, Tensor]:
    """Query, key and value from the seed, always on the CPU, in that order, in float32."""
    shape = _seeded_shape(inputs)
    generator = torch.Generator(device="cpu").manual_seed(inputs.seed)
    d_k, d_v = inputs.d_k, shape.d_v
    extents: dict[str, tuple[Any, ...]] = {
        "query": (shape.batch, shape.heads, shape.query_length, d_k),
        "key": (shape.batch, shape.kv_heads, shape.key_length, d_k),
        "value": (shape.batch, shape.kv_heads, shape.key_length, d_v),
    }
    if inputs.self_attention:
        query = _normal(extents["query"], inputs, generator)
        return {"query": query, "key": query, "value": query}
    return {name: _normal(extent, inputs, generator) for name, extent in extents.items()}


def _normal(extent: tuple[int, ...], inputs: SeededInputs, generator: torch.Generator) -> Tensor:
    drawn = torch.randn(extent, generator=generator)
    if inputs.std != 1:
        drawn *= inputs.std
    if inputs.mean != 0:
        drawn += inputs.mean
    return drawn


def _count_nonfinite(name: str, tensor: Tensor, *, refuse: bool) -> int:
    """Count NaN and infinity; minus infinity in given logits is a forbidden key, not a fault."""
    # A finite sum proves that every element is finite, at a tenth of the cost of looking at each.
    if name != "logits" and bool(torch.isfinite(tensor.sum(dtype=torch.float32))):
        return 0
    bad = ~torch.isfinite(tensor)
    if name == "logits":
        bad &= tensor != float("-inf")
    count = int(bad.sum())
    if count and (refuse or name == "weights"):
        first = [int(i) for i in bad.nonzero()[0]]
        hint = "" if name == "weights" else ' (compute.nonfinite "propagate" computes with them)'
        raise NonFinite(
            f"{name} holds {count:,} NaN or infinite values, the first at {first}; expected "
            f"finite numbers{hint}",
            pointer=f"/inputs/{name}",
        )
    return count


def _count_overflow(name: str, tensor: Tensor, dtype: torch.dtype, *, refuse: bool) -> int:
    """Count the finite numbers that the cast to `dtype` would turn into infinities."""
    largest = torch.finfo(dtype).max
    if largest >= torch.finfo(tensor.dtype).max:
        return 0
    lost = torch.isfinite(tensor) & ~torch.isfinite(tensor.to(dtype))
    count = int(lost.sum())
    if count and refuse:
        first = [int(i) for i in lost.nonzero()[0]]
        raise NonFinite(
            f"{name} holds {count:,} numbers that {DTYPE_NAMES[dtype]} cannot, whose largest is "
            f"{largest:.5g}, the first at {first}; compute.dtype casts the inputs before anything "
            "is computed",
            pointer="/compute/dtype",
        )
    return count


def check_weights(weights: Tensor) -> None:
    """Weights are never negative.

    Raises:
        Invalid: a negative weight, with its place.
    """
    negative = weights < 0
    if bool(negative.any()):
        first = [int(i) for i in negative.nonzero()[0]]
        raise Invalid(
            f"weights must be at least 0; found {int(negative.sum()):,} negative values, the first "
            f"at {first}",
            pointer="/inputs/weights",
        )
