"""What one request asks to be computed, resolved from it alone before anything is allocated."""

from dataclasses import dataclass

import torch

from schemas.attention import AttentionRequest, Sparsity
from schemas.inputs import LogitInputs, SeededInputs, TensorInputs, WeightInputs
from service.attention.second_pass import Second
from service.attention.streaming import Wanted
from service.errors import Invalid
from service.operands import compute_dtype, dtype_of, shape_of
from service.shape import Shape

DEFAULT_WEIGHTS_LIMIT = 2**20

INCLUDES = {
    "output": "weights @ value (batch, head, query, d_v), without the axes the query lacks.",
    "weights": "The weights (batch, head, query, key). Dropped from the default above "
    f"{DEFAULT_WEIGHTS_LIMIT:,} elements and then named in omitted.",
    "diagnostics": "Every diagnostic per (batch, head): mean, min and max over rows; the verdict.",
    "row_diagnostics": "Every diagnostic per row (batch, head, query).",
    "logits": "What enters the normaliser; minus infinity (JSON null) where a mask forbids.",
    "scores": "What the mechanism computes, before scale, softcap, bias and masks.",
    "theory": "What independent normal entries would give, beside the measurement.",
    "key_share": "Mean weight each key gets from the rows that see it (batch, head, key); sinks.",
    "sparsity": "Share of a row's visible weights below a threshold (1 % of its maximum, the rule "
    "of H2O, arXiv 2306.14048); as an object it takes a threshold.",
    "jacobian_spectral": "Exact largest eigenvalue of the softmax Jacobian, per row.",
}


@dataclass(frozen=True, slots=True)
class Plan:
    """A validated request with everything resolved that its shapes determine."""

    request: AttentionRequest
    shape: Shape
    answer_dtype: torch.dtype
    include: frozenset[str]
    sparsity_threshold: float
    omitted: tuple[str, ...]

    @property
    def compute_dtype(self) -> torch.dtype:
        """The dtype of all arithmetic."""
        return compute_dtype(self.answer_dtype)

    @property
    def from_products(self) -> bool:
        """Whether scores are computed here, not given as logits or weights."""
        return isinstance(self.request.inputs, SeededInputs | TensorInputs)

    @property
    def seeded(self) -> SeededInputs | None:
        """The inputs, where they are drawn from a seed."""
        return self.request.inputs if isinstance(self.request.inputs, SeededInputs) else None

    @property
    def wants_figures(self) -> bool:
        """Whether anything needs the diagnostics of the rows."""
        return bool(self.include & {"diagnostics", "row_diagnostics"})

    @property
    def wanted(self) -> Wanted:
        """What the pass collects."""
        mechanism, mask = self.request.mechanism, self.request.mask
        moderate = mechanism.scale is None or 1e-6 <= abs(mechanism.scale) <= 1e6
        # Beyond these scales the logits' squares leave float32, and the scores' would not.
        follows = mechanism.softcap is None and mask.bias is None and moderate
        needs_scores = self.wants_figures or "theory" in self.include
        return Wanted(
            output="output" in self.include,
            weights="weights" in self.include,
            logits="logits" in self.include,
            scores="scores" in self.include,
            score_moments=self.from_products and needs_scores and not follows,
        )

    @property
    def second(self) -> Second:
        """What the second pass collects."""
        return Second(
            key_share="key_share" in self.include,
            sparsity=self.sparsity_threshold if "sparsity" in self.include else None,
            jacobian_spectral="jacobian_spectral" in self.include,
        )


def plan(request: AttentionRequest) -> Plan:
    """Resolve shapes, dtype and what is included.

    Raises:
        ShapeMismatch, DtypeMismatch: inputs that do not fit together.
        Invalid: options that mean nothing for these inputs.
    """
    shape = shape_of(request.inputs)
    _check_options(request)
    _check_labels(request, shape)
    include, threshold, omitted = _include(request, shape)
    answer_dtype = dtype_of(request.inputs, request.compute.dtype)
    return Plan(request, shape, answer_dtype, include, threshold, omitted)


def _include(
    request: AttentionRequest, shape: Shape
) -> tuple[frozenset[str], float, tuple[str, ...]]:
    threshold, omitted = 0.01, []
    if request.include is None:
        names = {"output", "weights", "diagnostics"}
        if shape.logits > DEFAULT_WEIGHTS_LIMIT:
            names.remove("weights")
            omitted.append("weights")
    else:
        names = {item if isinstance(item, str) else item.name for item in request.include}
        for item in request.include:
            threshold = item.threshold if isinstance(item, Sparsity) else threshold
    for name in sorted(names & _impossible(request, shape)):
        names.remove(name)
        omitted.append(name)
    return frozenset(names), threshold, tuple(omitted)


def _impossible(request: AttentionRequest, shape: Shape) -> set[str]:
    """What these inputs cannot give."""
    missing = {"output"} if shape.d_v is None else set()
    if isinstance(request.inputs, LogitInputs):
        return missing | {"scores", "theory"}
    if isinstance(request.inputs, WeightInputs):
        return missing | {"scores", "logits", "theory"}
    return missing


def _check_options(request: AttentionRequest) -> None:
    kind = request.inputs.kind
    if kind in ("logits", "weights"):
        for option in ("scale", "softcap"):
            if getattr(request.mechanism, option) is not None:
                raise Invalid(
                    f"mechanism.{option} acts on scores before they become logits; inputs of kind "
                    f"{kind} come after it",
                    pointer=f"/mechanism/{option}",
                )
    if kind == "weights" and request.mask.bias is not None:
        raise Invalid(
            "a bias acts on logits; inputs of kind weights come after it", pointer="/mask/bias"
        )
    if request.mask.forbid_below is not None and request.mask.bias is None:
        raise Invalid("forbid_below needs a bias", pointer="/mask/forbid_below")


def _check_labels(request: AttentionRequest, shape: Shape) -> None:
    if request.labels is None:
        return
    for side, expected in (("query", shape.query_length), ("key", shape.key_length)):
        given = getattr(request.labels, side)
        if given is not None and len(given) != expected:
            raise Invalid(
                f"labels.{side} must name all {expected} of them; found {len(given)}",
                pointer=f"/labels/{side}",
            )
