"""What the diagnostics of an answer look like."""

from typing import Any, Literal

from pydantic import Field

from schemas.strict import Answer

PerHead = list[list[float | None]]
Level = Literal["saturated", "sharp", "healthy", "diffuse"]


class Aggregate(Answer):
    """A diagnostic over the rows where it is defined, per (batch, head)."""

    unit: str
    mean: PerHead
    min: PerHead
    max: PerHead
    rows: list[list[int]] = Field(description="How many rows the figures run over.")
    threshold: float | None = Field(None, description="Of sparsity: relative to the maximum.")
    reason: str | None = Field(None, description="Why the diagnostic is undefined, where it is.")


class Evidence(Answer):
    """A figure beside a threshold from the literature."""

    name: str
    value: float | None
    threshold: float
    source: str
    holds: bool | None = Field(description="value > threshold; null without a value.")
    meaning: str
    batch: int | None = Field(None, description="The batch item and head that the value is of.")
    head: int | None = None


class Verdict(Answer):
    """How saturated the heads are, by this service's own rules."""

    level: Level | None
    heads: list[list[Level | None]] = Field(description="Per (batch, head).")
    shares: dict[str, float | None] = Field(description="Share of the rows in each regime.")
    rows: int = Field(description="Rows with a regime: those that see at least two keys.")
    evidence: list[Evidence]
    advice: list[str]
    rules: str = Field(description="Version of the rules; see /v1/catalogue.")
    reason: str | None = Field(None, description="Why there is no level, where there is none.")


class PerHeadFigure(Answer):
    """A figure of each (batch, head), or null with a reason."""

    query: PerHead | None
    reason: str | None = None


class Gradients(Answer):
    """RMS of the gradients of <g, output>, g = randn of the output's shape from the seed.

    Query, key and value count as three tensors, even where one was given for all.
    """

    seed: int
    query: PerHead = Field(description="Per (batch, head) of that tensor.")
    key: PerHead
    value: PerHead
    projected: dict[str, PerHead] | None = Field(
        None, description="multi_head: the same for the projected query, key and value."
    )
    parameters: dict[str, float | None] = Field(description="Learned weights, by name.")
    closed_form: PerHeadFigure = Field(
        description="Of the query as the scores meet it, projected where it is, by "
        "scale · Cov_p(V, K)ᵀ g: from weights and output alone."
    )
    relative_to_uniform: PerHeadFigure = Field(
        description="Of the query as the scores meet it, over what it would be with equal weights "
        "on all visible keys."
    )
    vanished_rows: PerHeadFigure = Field(
        description="Share of the rows whose query gets less than a tenth of that."
    )


class Numerics(Answer):
    """How it was computed, and what went wrong on the way."""

    compute_dtype: str
    pass_: str = Field(alias="pass")
    tf32: bool
    fully_masked_rows: int
    underflowed_weights: int
    overflowed_logits: int
    nonfinite_inputs: int
    near_forbidden: int
    row_sum_min: float | None = Field(None, description="Of given weights.")
    row_sum_max: float | None = None
    row_sums_off: int | None = Field(None, description="Rows whose weights do not sum to 1.")
    advice: list[str] = Field(default=[])


class Prediction(Answer):
    """Theory beside measurement; z is their distance in standard errors."""

    predicted: float | None
    measured: float | None
    standard_error: float | None
    z: float | None
    source: str
    reason: str | None = None


class Theory(Answer):
    """What independent normal entries would give, beside what was measured."""

    assumption: str
    score_variance: Prediction
    row_variance: Prediction
    entropy: Prediction
    participation: Prediction
    asymptotes: dict[str, Any]
