"""Comparisons: the same inputs under several mechanisms, and the mildest setting that mends."""

from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from schemas.attention import Compute, ResolvedMask, ResolvedMechanism, Shape, Timing
from schemas.diagnostics import Aggregate, Numerics, PerHead, Verdict
from schemas.inputs import LogitInputs, SeededInputs, TensorInputs
from schemas.masks import Mask
from schemas.mechanisms import Mechanism, ScaledDotProduct
from schemas.strict import Answer, Strict

MOST_VARIANTS = 16
ComparedInputs = Annotated[SeededInputs | TensorInputs | LogitInputs, Field(discriminator="kind")]
"""Weights that are given as such cannot be made in several ways."""


class Variant(Strict):
    """A mechanism with its options, and a name for it."""

    label: Annotated[str, Field(min_length=1, max_length=64)]
    mechanism: Mechanism = ScaledDotProduct()


class Target(Strict):
    """What every head is to reach, its rows pooled over the batch; exactly one of the two."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": [name], "properties": {name: {"type": "number"}}}
                for name in ("saturated_share_max", "normalized_entropy_min")
            ]
        }
    )

    saturated_share_max: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        None, description="Share of rows with a max weight of at least 0.9."
    )
    normalized_entropy_min: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="Mean over the rows."
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.saturated_share_max is None) == (self.normalized_entropy_min is None):
            message = "expected exactly one of saturated_share_max and normalized_entropy_min"
            raise ValueError(message)
        return self


class ComparisonRequest(Strict):
    """The first variant is the baseline: changes and recommendations refer to it."""

    inputs: ComparedInputs = SeededInputs()
    mask: Mask = Mask()
    variants: (
        Annotated[list[Variant], Field(min_length=1, max_length=MOST_VARIANTS, fail_fast=True)]
        | None
    ) = Field(
        None,
        description="Absent = scaled by 1/sqrt(d_k) and unscaled; for given logits, softmax and "
        "sparsemax.",
    )
    target: Target | None = Field(
        None, description="Absent = no recommendation, which costs about a hundred passes."
    )
    compute: Compute = Compute()
    ignore_unknown: bool = Field(
        default=False, description="safetensors only: ignore entries that are no input."
    )

    @field_validator("variants")
    @classmethod
    def _distinct_labels(cls, variants: list[Variant] | None) -> list[Variant] | None:
        seen: dict[str, int] = {}
        for index, variant in enumerate(variants or ()):
            if (first := seen.setdefault(variant.label, index)) != index:
                message = f"expected a label of its own for each; {first} and {index} have the same"
                raise ValueError(message)
        return variants


class Change(Answer):
    """Mean less the baseline's mean."""

    mean: float | None = Field(description="Over all rows where it is defined.")
    heads: PerHead | None = Field(
        description="Per (batch, head); null where the variant has other heads than the baseline."
    )


class ComparedVariant(Answer):
    """One variant beside the baseline."""

    label: str
    mechanism: ResolvedMechanism
    shape: Shape
    diagnostics: dict[str, Aggregate]
    verdict: Verdict
    numerics: Numerics
    saturated_share: list[float | None] = Field(
        description="Per head, pooled over the batch: of the rows that see two keys, those with a "
        "max weight of at least 0.9. Null without such rows, and off softmax, which the rule is of."
    )
    change: dict[str, Change]
    output_change: float | None = Field(
        description="‖output − baseline‖₂ / ‖baseline‖₂ over everything."
    )
    output_change_heads: list[float | None] | None = Field(
        description="Per head, pooled over the batch; null for multi_head, whose output has none."
    )


class HeadSetting(Answer):
    """What one head alone needs."""

    head: int
    reachable: bool
    value: float | None = Field(description="Null: none is needed, or none reaches the target.")
    baseline: float | None = Field(description="The target's figure without it.")
    measured: float | None = Field(description="The target's figure with it.")
    output_change: float | None
    reason: str | None = None


class Setting(Answer):
    """The mildest value of one setting under which every head reaches the target."""

    reachable: bool
    value: float | None = Field(description="Null: none is needed, or none reaches the target.")
    mechanism: dict[str, Any] | None = Field(
        None,
        description="The baseline's with this value, to be posted as it is; learned weights that "
        "were given are given again beside it.",
    )
    measured: list[float | None] | None = Field(
        None, description="The target's figure of each head under it, from the final pass."
    )
    output_change: float | None = None
    heads: list[HeadSetting]
    reason: str | None = None


class ClippedHead(Answer):
    """QK-Clip of one head: its query and key products shrink by γ = min(1, τ / s_max)."""

    head: int
    reachable: bool
    s_max: float | None = Field(description="The largest visible scaled score.")
    tau: float | None = Field(description="Null: no clipping is needed, or none reaches it.")
    gamma: float | None
    published_gamma: float | None = Field(description="At the published τ.")
    baseline: float | None
    measured: float | None
    output_change: float | None
    reason: str | None = None


class QkClip(Answer):
    """The largest τ, and so the mildest γ, of each head (Kimi K2, arXiv 2507.20534).

    γ is no option of a request: it multiplies the head's query, or its square root the head's query
    and key weights.
    """

    reachable: bool
    published_tau: float
    published_reached: bool | None = Field(
        description="Whether the published τ makes every head reach the target."
    )
    output_change: float | None = Field(description="With every head at its own γ.")
    heads: list[ClippedHead]
    reason: str | None = None


class Recommendation(Answer):
    """The mildest settings that reach the target, each verified by a final pass."""

    figure: str = Field(description="What the target is about.")
    target: float
    baseline_reaches: bool = Field(description="Whether every head of the baseline does already.")
    baseline: list[float | None] = Field(description="The target's figure of each head.")
    temperature: Setting
    softcap: Setting
    qk_clip: QkClip


class Comparison(Answer):
    """Variants on the same inputs."""

    shape: Shape
    mask: ResolvedMask
    variants: list[ComparedVariant]
    recommendation: Recommendation | None = None
    reason: str | None = Field(None, description="Why there is no recommendation.")


class GroupComparison(Comparison):
    """One group of a file that holds many."""

    name: str


class ComparisonAnswer(Comparison):
    """The comparison, and how it was made."""

    omitted: list[str] = Field(default=[])
    device: str
    torch: str
    timing_ms: Timing
    request_id: str


class GroupedComparisonAnswer(Answer):
    """The comparisons of all groups of a file."""

    groups: list[GroupComparison]
    omitted: list[str] = Field(default=[])
    device: str
    torch: str
    timing_ms: Timing
    request_id: str
