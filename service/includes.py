"""What can be included in an answer, and what one request includes."""

from dataclasses import dataclass

from schemas.attention import (
    AttentionRequest,
    IncludeGradients,
    IncludePerturbation,
    IncludeSparsity,
)
from schemas.inputs import LogitInputs, WeightInputs
from service.mechanisms import MECHANISMS
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
    "flip_margin": "How far a query can move, in its own space, before another key is preferred: "
    "exact, per row, for dot-product scores without softcap, qk_norm and a bias per key.",
    "gradients": "RMS of the gradient on query, key, value and learned weights for a normal one on "
    "the output, and over that of uniform weights; as an object it takes a seed.",
    "perturbation": "How far weights and output move when query and key get a relative noise, "
    "beside the certificates of softmax; as an object it takes seed and relative_noise.",
}


@dataclass(frozen=True, slots=True)
class Included:
    """The names that are included, their options, and what these inputs cannot give."""

    names: frozenset[str]
    sparsity: IncludeSparsity
    gradients: IncludeGradients
    perturbation: IncludePerturbation
    omitted: tuple[str, ...]

    def __contains__(self, name: str) -> bool:
        return name in self.names


def included(request: AttentionRequest, shape: Shape) -> Included:
    """What the request includes, by default or by name."""
    sparsity, gradients = (
        IncludeSparsity(name="sparsity"),
        IncludeGradients(name="gradients", seed=0),
    )
    perturbation, omitted = IncludePerturbation(name="perturbation", relative_noise=0.01), []
    if request.include is None:
        names = {"output", "weights", "diagnostics"}
        if shape.logits > DEFAULT_WEIGHTS_LIMIT:
            names.remove("weights")
            omitted.append("weights")
    else:
        names = {item if isinstance(item, str) else item.name for item in request.include}
        for item in request.include:
            sparsity = item if isinstance(item, IncludeSparsity) else sparsity
            gradients = item if isinstance(item, IncludeGradients) else gradients
            perturbation = item if isinstance(item, IncludePerturbation) else perturbation
    for name in sorted(names & _impossible(request, shape)):
        names.remove(name)
        omitted.append(name)
    return Included(frozenset(names), sparsity, gradients, perturbation, tuple(omitted))


def _impossible(request: AttentionRequest, shape: Shape) -> set[str]:
    """What these inputs cannot give."""
    missing = {"output"} if shape.d_v is None else set()
    unscored = {"scores", "theory", "flip_margin", "gradients", "perturbation"}
    if isinstance(request.inputs, LogitInputs):
        return missing | unscored
    if isinstance(request.inputs, WeightInputs):
        return missing | unscored | {"logits"}
    mechanism = request.mechanism
    as_drawn = MECHANISMS[mechanism.kind].scores_products(mechanism) and mechanism.qk_norm == "none"
    return missing if as_drawn else missing | {"theory"}
