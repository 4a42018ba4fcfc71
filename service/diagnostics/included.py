"""Figures per row that are computed only when they are included: what each means."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class IncludedFigure:
    """One figure of a second pass, and the item of `include` that asks for it."""

    name: str
    include: str
    meaning: str
    formula: str
    unit: str
    range: str
    domain: str
    source: str


_NOISE = "query and key get normal noise of relative_noise times the RMS of their (batch, head)"
_EVERY = "rows with a visible key and finite logits"
_SOFTMAX = f"{_EVERY}; normalizer softmax"

INCLUDED = {
    figure.name: figure
    for figure in (
        IncludedFigure(
            "sparsity",
            "sparsity",
            "Share of the row's visible weights below threshold times its largest.",
            "mean over visible keys of [p < threshold · max p]",
            "1",
            "[0, 1]",
            _EVERY,
            "Zhang et al. 2023, H2O, arXiv 2306.14048",
        ),
        IncludedFigure(
            "jacobian_spectral",
            "jacobian_spectral",
            "The largest eigenvalue of the softmax Jacobian, exact.",
            "root of Σ p²/(p − x) = 1 between the two largest weights",
            "1",
            "[0, 1/2]",
            _SOFTMAX,
            "Golub 1973, Some modified matrix eigenvalue problems",
        ),
        IncludedFigure(
            "flip_margin",
            "flip_margin",
            "How far the query can move before another key is preferred: inside it the argmax "
            "cannot change, just outside it does.",
            "min over visible j ≠ a of (s_a − s_j) / (|scale| · ‖k_a − k_j‖)",
            "query",
            "[0, inf)",
            "rows that see another key; dot-product scores without softcap, qk_norm and a bias "
            "that differs between keys",
            "distance of a point to the bisecting hyperplane",
        ),
        IncludedFigure(
            "perturbation_l1",
            "perturbation",
            f"How far the weights move when {_NOISE}.",
            "‖Δp‖₁; at most 2 where rows sum to 1",
            "1",
            "[0, inf)",
            _EVERY,
            "definition",
        ),
        IncludedFigure(
            "perturbation_l1_bound",
            "perturbation",
            "The certificate of that: weights never move further than the largest change of a "
            "logit.",
            "‖Δs‖∞ ≥ ‖Δp‖₁",
            "1",
            "[0, inf)",
            _SOFTMAX,
            "Jacobian norm from ∞ to 1: Σ_jk |J_jk| ≤ 4 P(1 − P) ≤ 1",
        ),
        IncludedFigure(
            "perturbation_l2",
            "perturbation",
            f"How far the weights move, in the Euclidean norm, when {_NOISE}.",
            "‖Δp‖₂; at most sqrt(2) where rows sum to 1",
            "1",
            "[0, inf)",
            _EVERY,
            "definition",
        ),
        IncludedFigure(
            "perturbation_l2_bound",
            "perturbation",
            "The certificate of that.",
            "½‖Δs‖₂ ≥ ‖Δp‖₂",
            "1",
            "[0, inf)",
            _SOFTMAX,
            "softmax is 1/2-Lipschitz",
        ),
        IncludedFigure(
            "perturbation_output",
            "perturbation",
            f"How far the head's output moves, relative to it, when {_NOISE}; the value stays.",
            "‖Δo‖₂ / ‖o‖₂",
            "1",
            "[0, inf)",
            _EVERY,
            "definition",
        ),
    )
}
