"""The three harms of saturation as evidence: vanishing gradient, sparse weights, sensitivity."""

from collections.abc import Mapping

import torch
from torch import Tensor

from service.diagnostics.aggregate import Aggregates
from service.diagnostics.evidence import Evidence, worst

VANISHED_SHARE = 0.5
SPARSE_SHARE = 0.95
AMPLIFICATION = 5.0
_OWN = "convention of this service"


def harm_evidence(
    figures: Aggregates,
    rows: Mapping[str, Tensor],
    vanished: Tensor | None,
    relative_noise: float,
) -> list[Evidence]:
    """Evidence from what was included, each for the worst head.

    Args:
        figures: per (batch, head).
        rows: the same per row (batch, heads, N).
        vanished: share of the rows whose query gets next to no gradient (batch, heads).
        relative_noise: of the perturbation.
    """
    found = []
    if vanished is not None:
        found.append(
            worst(
                "gradient_vanished_rows",
                vanished.numpy(),
                VANISHED_SHARE,
                _OWN,
                "vanishing gradient: the share of the worst head's rows whose query gets less than "
                "a tenth of the gradient that equal weights on all keys would pass",
            )
        )
    if figures.defines("sparsity"):
        # A row keeps its largest weight: of n keys at most n − 1 can be ignored.
        keys = rows["visible_keys"]
        ignored = torch.where(keys > 1, rows["sparsity"] * keys / (keys - 1), float("nan"))
        found.append(
            worst(
                "sparsity",
                ignored.nanmean(-1).numpy(),
                SPARSE_SHARE,
                "Zhang et al. 2023, H2O, arXiv 2306.14048: 95 % in large language models, over "
                "thousands of keys",
                "sparse weights: the share of the keys beside the preferred one that the rows of "
                "the sparsest head ignore",
            )
        )
    if figures.defines("perturbation_l1"):
        found.append(
            worst(
                "perturbation_amplification",
                figures.maxima("perturbation_l1"),
                AMPLIFICATION,
                _OWN,
                "sensitivity: how far the weights of the worst row move (in the 1-norm), over the "
                "relative noise on query and key; logits of unit variance give 1 to 2 under "
                "softmax. Rows that are one-hot do not move until they flip: large logits make the "
                "few rows near a tie jump, and the rest rigid",
                over=relative_noise,
            )
        )
    return found
