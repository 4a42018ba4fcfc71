"""The three harms of saturation as evidence: vanishing gradient, sparse weights, sensitivity."""

import torch
from torch import Tensor

from service.diagnostics.evidence import Evidence

VANISHED_SHARE = 0.5
SPARSE_SHARE = 0.95
AMPLIFICATION = 5.0
_OWN = "convention of this service"


def harm_evidence(
    rows: dict[str, Tensor], vanished: Tensor | None, relative_noise: float
) -> list[Evidence]:
    """Evidence from what was included, each for the worst head.

    Args:
        rows: figures per row (batch, heads, N).
        vanished: share of the rows whose query gets next to no gradient (batch, heads).
        relative_noise: of the perturbation.
    """
    found = []
    if vanished is not None:
        found.append(
            Evidence(
                "gradient_vanished_rows",
                _largest(vanished),
                VANISHED_SHARE,
                _OWN,
                "vanishing gradient: the share of the worst head's rows whose query gets less than "
                "a tenth of the gradient that equal weights on all keys would pass",
            )
        )
    if "sparsity" in rows:
        found.append(
            Evidence(
                "sparsity",
                _largest(rows["sparsity"].nanmean(-1)),
                SPARSE_SHARE,
                "Zhang et al. 2023, H2O, arXiv 2306.14048: over 95 % in trained models",
                "sparse weights: the share of keys that the rows of the sparsest head ignore",
            )
        )
    if "perturbation_l1" in rows:
        moved = _largest(rows["perturbation_l1"])
        found.append(
            Evidence(
                "perturbation_amplification",
                None if moved is None else moved / relative_noise,
                AMPLIFICATION,
                _OWN,
                "sensitivity: how far the weights of the worst row move (in the 1-norm), over the "
                "relative noise on query and key; logits of unit variance give 1 to 2",
            )
        )
    return found


def _largest(figures: Tensor) -> float | None:
    finite = figures[torch.isfinite(figures)]
    return float(finite.max()) if finite.numel() else None
