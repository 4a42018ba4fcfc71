"""The learned weights of a mechanism: given and checked, or drawn from a seed of their own."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from schemas.parameters import SeededWeights
from schemas.strict import Strict
from service import seeds
from service.errors import Invalid, NonFinite, ShapeMismatch

POINTER = "/mechanism/parameters"


@dataclass(frozen=True, slots=True)
class Parameter:
    """One learned weight: its extents, and the input dimension that a seeded one is scaled by.

    `drawn` is False for biases, which a seed leaves absent; those may be absent when given, too.
    """

    name: str
    shape: tuple[int, ...]
    fan_in: int = 1
    drawn: bool = True

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


def given(source: Strict) -> dict[str, Tensor]:
    """The tensors of a request's parameters; none where they are seeded."""
    if isinstance(source, SeededWeights):
        return {}
    named = {name: getattr(source, name) for name in type(source).model_fields}
    return {name: tensor for name, tensor in named.items() if isinstance(tensor, Tensor)}


def check(wanted: Sequence[Parameter], source: Strict) -> None:
    """Compare the extents of given weights with what the inputs need.

    Raises:
        ShapeMismatch: the first weight that does not fit.
        Invalid: a weight that this mechanism has no use for, or that is absent.
    """
    tensors = given(source)
    known = {parameter.name: parameter for parameter in wanted}
    for name, tensor in tensors.items():
        if name not in known:
            raise Invalid(
                f"{name} is no weight of this mechanism; its weights are "
                f"{', '.join(known) or 'none'}",
                pointer=f"{POINTER}/{name}",
            )
        if tuple(tensor.shape) != known[name].shape:
            raise ShapeMismatch(
                f"{name} must have shape {list(known[name].shape)} for these inputs; found "
                f"{list(tensor.shape)}",
                pointer=f"{POINTER}/{name}",
            )
    if isinstance(source, SeededWeights):
        return
    for parameter in wanted:
        if parameter.drawn and parameter.name not in tensors:
            raise Invalid(
                f"{parameter.name} {list(parameter.shape)} is missing",
                pointer=f"{POINTER}/{parameter.name}",
            )


def prepare(
    wanted: Sequence[Parameter],
    source: Strict | None,
    *,
    dtype: torch.dtype,
    device: torch.device,
    refuse: bool,
) -> tuple[dict[str, Tensor], int]:
    """The weights in `dtype`, and how many NaN and infinities they hold.

    Raises:
        NonFinite: NaN or infinity, given or by the cast, where they are refused.
    """
    if source is None or not wanted:
        return {}, 0
    seeded = isinstance(source, SeededWeights)
    tensors = draw(wanted, source.seed) if isinstance(source, SeededWeights) else given(source)
    placed = {n: t.to(device=device, dtype=dtype).contiguous() for n, t in tensors.items()}
    if seeded:
        return placed, 0
    count = 0
    for name, tensor in placed.items():
        bad = int((~torch.isfinite(tensor)).sum())
        if bad and refuse:
            first = [int(i) for i in (~torch.isfinite(tensor)).nonzero()[0]]
            raise NonFinite(
                f"{name} holds {bad:,} NaN or infinite values in the compute dtype, the first at "
                f"{first}; expected finite numbers",
                pointer=f"{POINTER}/{name}",
            )
        count += bad
    return placed, count


def draw(wanted: Sequence[Parameter], seed: int) -> dict[str, Tensor]:
    """randn(shape) / sqrt(fan_in), in the order wanted, on the CPU in float32; biases absent.

    Inputs of variance 1 keep it through such weights (LeCun et al. 1998, Efficient BackProp,
    section 4.6); weights of variance 1 would saturate everything.
    """
    generator = seeds.generator(seed, "parameters")
    return {
        parameter.name: torch.randn(parameter.shape, generator=generator)
        / math.sqrt(parameter.fan_in)
        for parameter in wanted
        if parameter.drawn
    }
