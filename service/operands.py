"""The tensors an analysis runs on: given, or drawn from a seed; checked, cast and placed."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from schemas.inputs import SeededInputs, TensorInputs
from service import seeds
from service.errors import DtypeMismatch, Invalid, NonFinite
from service.extents import AnyInputs, four
from service.shape import Shape

_FURTHEST = 64.0
DTYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}
_NAMES = {
    "seeded": (),
    "tensors": ("query", "key", "value"),
    "logits": ("value", "logits"),
    "weights": ("value", "weights"),
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class Operands:
    """Rank-4 tensors in the compute dtype, and the dtype that the answer is given in.

    `query` (batch, heads, N, d_q); `key` (batch, kv_heads, M, d_k); `value` (batch,
    kv_heads, M, d_v) or None; `given` logits or weights (batch, heads, N, M) that replace the
    scores, or None. `checkpoint` raises when the work is no longer wanted.
    """

    query: Tensor | None
    key: Tensor | None
    value: Tensor | None
    given: Tensor | None
    answer_dtype: torch.dtype
    nonfinite: int
    checkpoint: Callable[[], None] = lambda: None


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
    names = _NAMES[inputs.kind]
    return {n: t for n in names if (t := getattr(inputs, n)) is not None}


def compute_dtype(answer_dtype: torch.dtype) -> torch.dtype:
    """float64 stays; everything else is computed in float32 (q·k in float16 overflows)."""
    return torch.float64 if answer_dtype == torch.float64 else torch.float32


def prepare(
    inputs: AnyInputs,
    shape: Shape,
    *,
    cast: str | None,
    device: torch.device,
    nonfinite: str,
    later: bool = False,
) -> Operands:
    """Draw or take the tensors, refuse or count NaN and infinity, cast and place them.

    `shape` is that of the inputs as they lie; `later` leaves NaN and infinity to `refuse_nonfinite`
    where no cast can make any.

    Raises:
        NonFinite: NaN or infinity, given or by the cast, where they are refused.
    """
    answer_dtype, refuse = dtype_of(inputs, cast), nonfinite == "refuse"
    named = draw(inputs, shape) if isinstance(inputs, SeededInputs) else _named(inputs)
    drawn_finite = isinstance(inputs, SeededInputs) and _surely_finite(inputs, answer_dtype)
    later = later and not any(_narrows(tensor, answer_dtype) for tensor in named.values())
    count = (
        0
        if drawn_finite or later
        else sum(
            _count_nonfinite(name, tensor, refuse=refuse)
            + _count_overflow(name, tensor, answer_dtype, refuse=refuse)
            for name, tensor in named.items()
        )
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


def refuse_nonfinite(inputs: AnyInputs) -> None:
    """Refuse NaN and infinity in what the caller gave.

    Raises:
        NonFinite: which tensor, how many, and where the first is.
    """
    named = {} if isinstance(inputs, SeededInputs) else _named(inputs)
    for name, tensor in named.items():
        _count_nonfinite(name, tensor, refuse=True)


def _place(tensor: Tensor, answer_dtype: torch.dtype, device: torch.device) -> Tensor:
    computed = compute_dtype(answer_dtype)
    if not tensor.dtype == answer_dtype == computed or tensor.device != device:
        tensor = tensor.to(device=device, dtype=answer_dtype).to(computed)
    return four(tensor).contiguous()


def draw(inputs: SeededInputs, shape: Shape) -> dict[str, Tensor]:
    """Query, key and value from the seed, always on the CPU, in that order, in float32."""
    generator = seeds.generator(inputs.seed, "inputs")
    keys = (shape.batch, shape.kv_heads, shape.key_length)
    extents: dict[str, tuple[Any, ...]] = {
        "query": (shape.batch, shape.heads, shape.query_length, shape.d_q),
        "key": (*keys, shape.d_k),
        "value": (*keys, shape.d_v),
    }
    if inputs.self_attention:
        query = _normal(extents["query"], inputs, generator)
        return {"query": query, "key": query, "value": query}
    return {name: _normal(extent, inputs, generator) for name, extent in extents.items()}


def _surely_finite(inputs: SeededInputs, dtype: torch.dtype) -> bool:
    """Whether no number drawn can leave the dtype; normal ones never reach _FURTHEST."""
    return abs(inputs.mean) + _FURTHEST * abs(inputs.std) < torch.finfo(dtype).max


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
    if name != "logits" and math.isfinite(tensor.sum(dtype=torch.float32)):
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
    if not _narrows(tensor, dtype):
        return 0
    largest = torch.finfo(dtype).max
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


def _narrows(tensor: Tensor, dtype: torch.dtype) -> bool:
    """Whether a cast could turn a finite number into infinity."""
    return torch.finfo(dtype).max < torch.finfo(tensor.dtype).max


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
