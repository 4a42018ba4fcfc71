"""What one request asks to be computed, resolved from it alone before anything is allocated."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from schemas.attention import AttentionRequest
from schemas.inputs import SeededInputs, TensorInputs
from service import domains
from service.attention.collected import Wanted
from service.attention.second_pass import Second
from service.errors import Invalid
from service.extents import shape_of
from service.includes import Included, included
from service.mechanisms import MECHANISMS
from service.mechanisms.base import Mechanism
from service.normalizers import NORMALIZERS, Normalizer
from service.operands import compute_dtype, dtype_of
from service.parameters import Parameter, check
from service.shape import Shape

_SCORED = (SeededInputs, TensorInputs)


# What takes no more of a row than its maximum, its sum and its counts.
_MATRICES = frozenset({"output", "weights", "logits", "scores"})


@dataclass(frozen=True)
class Plan:
    """A validated request with everything resolved that its shapes determine.

    `given_shape` is that of the inputs as they lie, `shape` that of the heads; `parameters` are the
    mechanism's learned weights. What follows from these is kept: it is asked for some 20 times.
    """

    request: AttentionRequest
    given_shape: Shape
    shape: Shape
    parameters: tuple[Parameter, ...]
    answer_dtype: torch.dtype
    include: Included

    @cached_property
    def compute_dtype(self) -> torch.dtype:
        """The dtype of all arithmetic."""
        return compute_dtype(self.answer_dtype)

    @property
    def mechanism(self) -> Mechanism[Any]:
        """The member that scores."""
        return MECHANISMS[self.request.mechanism.kind]

    @property
    def normalizer(self) -> Normalizer:
        """The member that turns logits into weights."""
        return NORMALIZERS[self.request.mechanism.normalizer]

    @cached_property
    def scored(self) -> bool:
        """Whether scores are computed here, not given as logits or weights."""
        return isinstance(self.request.inputs, _SCORED)

    @property
    def seeded(self) -> SeededInputs | None:
        """The inputs, where they are drawn from a seed."""
        return self.request.inputs if isinstance(self.request.inputs, SeededInputs) else None

    @cached_property
    def wants_figures(self) -> bool:
        """Whether anything needs the diagnostics of the rows."""
        return bool(self.include.names & {"diagnostics", "row_diagnostics"})

    @cached_property
    def wanted(self) -> Wanted:
        """What the pass collects."""
        mechanism, mask = self.request.mechanism, self.request.mask
        scale = mechanism.scale
        # Beyond these scales the logits' squares leave float32, and the scores' would not; a scale
        # of each row is 0 where that sees one key.
        moderate = scale is None or (isinstance(scale, float) and 1e-6 <= abs(scale) <= 1e6)
        follows = mechanism.softcap is None and mask.bias is None and moderate
        needs_scores = self.wants_figures or "theory" in self.include
        return Wanted(
            output=bool(self.include.names & {"output", "gradients"}),
            weights="weights" in self.include,
            logits="logits" in self.include,
            scores="scores" in self.include,
            score_moments=self.scored and needs_scores and not follows,
            score_figures=self.wants_figures,
            statistics=not self.include.names <= _MATRICES,
        )

    @cached_property
    def wants_flips(self) -> bool:
        """Whether flip margins are asked for and defined."""
        return "flip_margin" in self.include and domains.flip_margin(self.request) is None

    @cached_property
    def whole_rows(self) -> bool:
        """Whether something is computed on whole rows of a unit, after the pass."""
        harms = bool(self.include.names & {"gradients", "perturbation"})
        return harms or self.wants_flips or self.second.anything

    @cached_property
    def second(self) -> Second:
        """What the second pass collects."""
        return Second(
            key_share="key_share" in self.include,
            sparsity=self.include.sparsity.threshold if "sparsity" in self.include else None,
            jacobian_spectral="jacobian_spectral" in self.include
            and domains.jacobian_spectral(self.request) is None,
        )


def plan(request: AttentionRequest) -> Plan:
    """Resolve shapes, dtype and what is included.

    Raises:
        ShapeMismatch, DtypeMismatch: inputs that do not fit together.
        Invalid: options that mean nothing for these inputs.
    """
    _check_options(request)
    member, mechanism = MECHANISMS[request.mechanism.kind], request.mechanism
    scored = isinstance(request.inputs, _SCORED)
    given = shape_of(request.inputs, undivided=scored and member.undivided)
    shape = member.resolve(mechanism, given) if scored else given
    parameters = member.parameters(mechanism, shape) if scored else ()
    source = member.source(mechanism)
    if source is not None and scored:
        check(parameters, source)
    _check_labels(request, shape)
    answer_dtype = dtype_of(request.inputs, request.compute.dtype)
    return Plan(request, given, shape, parameters, answer_dtype, included(request, shape))


def _check_options(request: AttentionRequest) -> None:
    kind = request.inputs.kind
    mechanism = request.mechanism
    if kind in ("logits", "weights"):
        if mechanism.kind != "scaled_dot_product":
            raise Invalid(
                f"a mechanism computes scores; inputs of kind {kind} come after it, so that "
                "mechanism.kind must be left out",
                pointer="/mechanism/kind",
            )
        for option, unset in (("scale", None), ("softcap", None), ("qk_norm", "none")):
            if getattr(mechanism, option) != unset:
                raise Invalid(
                    f"mechanism.{option} acts on scores before they become logits; inputs of kind "
                    f"{kind} come after it",
                    pointer=f"/mechanism/{option}",
                )
    if kind == "weights" and mechanism.normalizer != "softmax":
        raise Invalid(
            "a normalizer turns logits into weights; inputs of kind weights come after it",
            pointer="/mechanism/normalizer",
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
