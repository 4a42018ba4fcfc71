"""The request and the answer of one attention analysis."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag

from schemas.diagnostics import Aggregate, Gradients, Numerics, Theory, Verdict
from schemas.inputs import Inputs, SeededInputs
from schemas.masks import Mask
from schemas.mechanisms import Mechanism, ScaledDotProduct
from schemas.strict import Answer, Strict
from schemas.tensors import Dtype

IncludeName = Literal[
    "output",
    "weights",
    "diagnostics",
    "row_diagnostics",
    "logits",
    "scores",
    "theory",
    "key_share",
    "sparsity",
    "jacobian_spectral",
    "flip_margin",
    "gradients",
    "perturbation",
]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class IncludeSparsity(Strict):
    """The share of visible weights below `threshold` times the row's maximum."""

    name: Literal["sparsity"]
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.01


class IncludeGradients(Strict):
    """How much gradient reaches query, key and value from a normal one on the output."""

    name: Literal["gradients"]
    seed: Seed = Field(
        0,
        description="Of the upstream gradient: torch.randn of the output's shape from a generator "
        "with manual_seed(2_000_000_000 + seed), so that it is not the seeded query.",
    )
    closed_form: bool = Field(
        default=True, description="Also by scale · Cov_p(V, K)ᵀ g, where it is defined."
    )


class IncludePerturbation(Strict):
    """How far weights and output move when query and key do."""

    name: Literal["perturbation"]
    seed: Seed = Field(
        0,
        description="Of the noise: torch.randn of the query's shape, then of the key's, from a "
        "generator with manual_seed(3_000_000_000 + seed).",
    )
    relative_noise: Annotated[float, Field(ge=1e-5, le=1)] = Field(
        0.01,
        description="Standard deviation of the noise over the RMS of query, of key; what is much "
        "smaller drowns in the rounding of float32.",
    )


class IncludeOptions(Strict):
    """An included item without options of its own, written as an object."""

    name: IncludeName


def _include_form(value: object) -> str:
    if not isinstance(value, dict):
        return "name"
    name = value.get("name")
    return name if name in ("sparsity", "gradients", "perturbation") else "options"


IncludeItem = Annotated[
    Annotated[IncludeName, Tag("name")]
    | Annotated[IncludeSparsity, Tag("sparsity")]
    | Annotated[IncludeGradients, Tag("gradients")]
    | Annotated[IncludePerturbation, Tag("perturbation")]
    | Annotated[IncludeOptions, Tag("options")],
    Discriminator(_include_form),
]

Label = Annotated[str, Field(max_length=200)]


class Labels(Strict):
    """Names for queries and keys, tokens for instance."""

    query: Annotated[list[Label], Field(max_length=65536, fail_fast=True)] | None = None
    key: Annotated[list[Label], Field(max_length=65536, fail_fast=True)] | None = None


class Compute(Strict):
    """Where, in which precision, and what to do with NaN and infinity."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:(0|[1-9][0-9]?))?)$")] = "auto"
    dtype: Dtype | None = Field(
        None, description="Casts the inputs first; absent = the inputs' own dtype."
    )
    nonfinite: Literal["refuse", "propagate"] = "refuse"


class AttentionRequest(Strict):
    """One analysis. Everything has a default: `{}` is a valid request."""

    mechanism: Mechanism = ScaledDotProduct()
    inputs: Inputs = SeededInputs()
    mask: Mask = Mask()
    labels: Labels | None = None
    include: Annotated[list[IncludeItem], Field(max_length=32, fail_fast=True)] | None = Field(
        None, description="Absent = output, weights (up to 1,048,576 elements) and diagnostics."
    )
    compute: Compute = Compute()
    tensor_format: Literal["nested", "flat", "base64"] = "nested"
    ignore_unknown: bool = Field(
        default=False,
        description="safetensors only: ignore entries that are no input and list them in omitted.",
    )


class ResolvedMask(Answer):
    """The mask as it was applied."""

    causal: str
    resolved_offset: list[int] = Field(description="Per batch item.")
    visible_keys: Aggregate | None = Field(None, description="How many keys the rows see.")


class RowScale(Answer):
    """A scale that grows with the logarithm of the visible keys."""

    kind: str
    base: float
    default: float = Field(description="The mechanism's, applied at n = base.")
    min: float = Field(description="The smallest of all rows.")
    max: float


class ResolvedMechanism(Answer):
    """The mechanism with its options as they were applied, its own options among them."""

    model_config = ConfigDict(extra="allow")

    kind: str
    scale: float | RowScale | None = Field(description="Null where logits or weights were given.")
    softcap: float | None
    normalizer: str
    qk_norm: str
    parameters: dict[str, Any] | None = Field(
        None, description="Whether given or seeded, and the shapes of the learned weights."
    )


class Shape(Answer):
    """The resolved extents."""

    batch: int
    heads: int
    kv_heads: int
    query_length: int
    key_length: int
    d_q: int | None = Field(None, description="Where it differs from d_k.")
    d_k: int | None
    d_v: int | None
    query_dim: int | None = Field(None, description="Of multi_head: the model's dimensions.")
    key_dim: int | None = None
    value_dim: int | None = None
    output_dim: int | None = None


class Timing(Answer):
    """Milliseconds spent waiting and computing."""

    queue: float
    compute: float


class RankedHead(Answer):
    """One head of one group, its rows pooled over the batch."""

    group: str
    head: int
    level: str | None
    entropy: float | None
    max_weight: float | None
    jacobian_trace: float | None


class Analysis(Answer):
    """What one analysis found."""

    mechanism: ResolvedMechanism
    shape: Shape
    mask: ResolvedMask
    labels: dict[str, list[str] | None] | None = None
    output: Any = None
    weights: Any = None
    logits: Any = None
    scores: Any = None
    key_share: Any = None
    diagnostics: dict[str, Aggregate] | None = None
    row_diagnostics: dict[str, Any] | None = None
    verdict: Verdict | None = None
    numerics: Numerics
    theory: Theory | None = None
    gradients: Gradients | None = None
    omitted: list[str] = Field(default=[])


class GroupAnalysis(Analysis):
    """One group of a file that holds many."""

    name: str


class AttentionAnswer(Analysis):
    """The analysis, and how it was made."""

    device: str
    torch: str
    timing_ms: Timing
    batch_size: int
    request_id: str


class GroupedAnswer(Answer):
    """The analyses of all groups of a file, and one ranking of all their heads, worst first."""

    groups: list[GroupAnalysis]
    ranking: list[RankedHead]
    omitted: list[str] = Field(default=[])
    device: str
    torch: str
    timing_ms: Timing
    batch_size: int
    request_id: str
