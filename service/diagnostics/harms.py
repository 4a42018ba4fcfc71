"""The three harms of saturation as evidence: vanishing gradient, sparse weights, sensitivity."""

import torch
from torch import Tensor

from service.diagnostics.evidence import Evidence

VANISHING_GRADIENT = 0.1
SPARSE_SHARE = 0.95
AMPLIFICATION = 2.0
_OWN = "convention of this service"


def harm_evidence(
    rows: dict[str, Tensor], relative: Tensor | None, relative_noise: float
) -> list[Evidence]:
    """Evidence from what was included, each for the worst head.

    Args:
        rows: figures per row (batch, heads, N).
        relative: RMS gradient on the query over that of uniform weights (batch, heads).
        relative_noise: of the perturbation.
    """
    found = []
    if relative is not None:
        found.append(
            Evidence(
                "gradient_relative_to_uniform",
                _extreme(relative, largest=False),
                VANISHING_GRADIENT,
                _OWN,
                "vanishing gradient: what reaches the queries of the worst head, over what would "
                "if it weighed all keys alike",
                below=True,
            )
        )
    if "sparsity" in rows:
        found.append(
            Evidence(
                "sparsity",
                _extreme(rows["sparsity"].nanmean(-1), largest=True),
                SPARSE_SHARE,
                "Zhang et al. 2023, H2O, arXiv 2306.14048: over 95 % in trained models",
                "sparse weights: the share of keys that the rows of the sparsest head ignore",
            )
        )
    if "perturbation_l1" in rows:
        moved = _extreme(rows["perturbation_l1"].nanmean(-1), largest=True)
        found.append(
            Evidence(
                "perturbation_amplification",
                None if moved is None else moved / relative_noise,
                AMPLIFICATION,
                _OWN,
                "sensitivity: how far the weights of the worst head move (in the 1-norm), over the "
                "relative noise on query and key",
            )
        )
    return found


def _extreme(figures: Tensor, *, largest: bool) -> float | None:
    finite = figures[torch.isfinite(figures)]
    if not finite.numel():
        return None
    return float(finite.max() if largest else finite.min())
