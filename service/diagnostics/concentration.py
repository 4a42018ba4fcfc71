"""How close to one-hot a row is."""

import numpy as np

from service.diagnostics.base import Diagnostic
from service.diagnostics.rows import Figures, Rows


def normalized_entropy(rows: Rows) -> Figures:
    """Entropy over that of uniform weights on the visible keys."""
    return rows.entropy / rows.log_visible


def participation_ratio(rows: Rows) -> Figures:
    """1 / Σp²."""
    return 1 / rows.sum_of_squares


CONCENTRATION = (
    Diagnostic(
        name="entropy",
        meaning="Shannon entropy of the weights over their sum: 0 is one-hot, ln n is uniform.",
        formula="-sum p ln p of p over its sum; softmax log1p(t) - e1/l",
        unit="nat",
        range="[0, ln n]",
        source="Shannon 1948; Zhai et al. 2023, arXiv 2303.06296 (attention entropy collapse)",
        compute=lambda rows: rows.entropy,
    ),
    Diagnostic(
        name="normalized_entropy",
        meaning="Entropy over that of uniform weights on the visible keys, so that rows that see "
        "few keys (early causal rows) are not called sharp.",
        formula="entropy / ln n",
        unit="1",
        range="[0, 1]",
        source="Pielou 1966 (evenness)",
        compute=normalized_entropy,
        least_keys=2,
    ),
    Diagnostic(
        name="effective_keys",
        meaning="How many keys, equally weighted, would give this entropy: the row's perplexity.",
        formula="exp(entropy)",
        unit="keys",
        range="[1, n]",
        source="Hill 1973, number of order 1",
        compute=lambda rows: np.exp(rows.entropy),
    ),
    Diagnostic(
        name="participation_ratio",
        meaning="How many keys take part, by the Rényi-2 entropy; it is the smaller of the two "
        "effective numbers.",
        formula="1 / sum p^2 of p over its sum",
        unit="keys",
        range="[1, n]",
        source="Hill 1973, number of order 2",
        compute=participation_ratio,
    ),
    Diagnostic(
        name="max_weight",
        meaning="The largest weight; at 0.9 and above this service calls a row saturated.",
        formula="P = 1/l; the largest p",
        unit="1",
        range="[0, 1]",
        source="definition",
        compute=lambda rows: rows.largest,
    ),
    Diagnostic(
        name="logit_gap",
        meaning="Distance from the largest logit to the next: under softmax the second weight is "
        "the largest times exp(-gap).",
        formula="m - second maximum",
        unit="nat",
        range="[0, inf)",
        source="definition",
        compute=lambda rows: rows.statistics.maximum - rows.statistics.second,
        least_keys=2,
    ),
)
