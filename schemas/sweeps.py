"""Sweeps: every diagnostic over a grid of dimensions, scales and lengths, beside the theory."""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from schemas.attention import Timing
from schemas.inputs import Extent
from schemas.problems import Problem
from schemas.strict import Answer, Strict

ScaleName = Literal["1/sqrt(d_k)", "1/d_k", "1"]
Finite = Annotated[float, Field(ge=-1e6, le=1e6)]


def _scale_form(value: object) -> str:
    return "name" if isinstance(value, str) else "number"


SweepScale = Annotated[
    Annotated[ScaleName, Tag("name")] | Annotated[Finite, Tag("number")],
    Discriminator(_scale_form),
]
SweepInclude = Literal["gradients", "sparsity", "jacobian_spectral", "flip_margin", "perturbation"]


class SweepRequest(Strict):
    """The grid is the product of d_k, scale and key_length; `{}` is the classic table.

    Repeat r of every point uses seed + r, of inputs, upstream gradient and noise alike: the point
    is POST /v1/attention with that seed and shape, and different scales see the same draws.
    """

    d_k: Annotated[list[Extent], Field(min_length=1, max_length=256, fail_fast=True)] = Field(
        [2**power for power in range(13)], description="Absent = powers of two from 1 to 4096."
    )
    scale: Annotated[list[SweepScale], Field(min_length=1, max_length=64, fail_fast=True)] = Field(
        ["1/sqrt(d_k)", "1"], description="By name, or numbers."
    )
    key_length: Annotated[list[Extent], Field(min_length=1, max_length=64, fail_fast=True)] = Field(
        [128], description="Keys, of which every query sees all."
    )
    query_length: Extent = 64
    repeats: Annotated[int, Field(ge=1, le=64)] = 8
    seed: Annotated[int, Field(ge=0, lt=2**63 - 64)] = 0
    include: Annotated[list[SweepInclude], Field(max_length=8, fail_fast=True)] = Field(
        ["gradients"], description="What needs more than one pass."
    )


class Measured(Answer):
    """Mean over the repeats of the mean over the rows, and its standard error."""

    mean: float | None = Field(description="Null where it is undefined.")
    standard_error: float | None = Field(
        description="Standard deviation over repeats / sqrt(repeats); null for one."
    )


class Predicted(Answer):
    """The exact expectation at this number of keys, for any seed."""

    value: float | None = Field(description="Null outside the formula's range.")
    source: str
    valid: bool


class Asymptote(Answer):
    """What it would be for n → ∞: a label, far off at finite n."""

    value: float | None
    source: str


class SweepRow(Answer):
    """One point of the grid."""

    d_k: int
    scale: str | float = Field(description="As asked.")
    scale_value: float
    key_length: int
    seeds: list[int]
    measured: dict[str, Measured]
    predicted: dict[str, Predicted]
    asymptote: dict[str, Asymptote]


class SweepAnswer(Answer):
    """All points: key_length outermost, then d_k, then scale."""

    rows: list[SweepRow]
    total: int
    query_length: int
    repeats: int
    device: str
    torch: str
    timing_ms: Timing
    request_id: str


class SweepLine(Answer):
    """A line of application/x-ndjson: the row that was just done, or what went wrong."""

    done: int
    total: int
    row: SweepRow | None = None
    problem: Problem | None = None
