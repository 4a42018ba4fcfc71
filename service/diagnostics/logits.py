"""How large the logits are, after scale, softcap and bias."""

import numpy as np

from service.diagnostics.base import EXPONENTIAL, Diagnostic
from service.diagnostics.rows import Figures, Rows


def saturation_index(rows: Rows) -> Figures:
    """σ / sqrt(2 ln n)."""
    found: Figures = np.sqrt(rows.variance / (2 * rows.log_visible))
    return found


_DEFINITION = "over the visible keys"

LOGITS = (
    Diagnostic(
        name="logit_mean",
        meaning="Mean logit of the row; the softmax does not depend on it.",
        formula="mean of s_j",
        unit="nat",
        range="(-inf, inf)",
        source=_DEFINITION,
        compute=lambda rows: rows.statistics.mean,
        needs="logits",
    ),
    Diagnostic(
        name="logit_variance",
        meaning="Variance of the row's logits; about 1 where 1/sqrt(d_k) does its work.",
        formula="mean of (s_j - mean)^2",
        unit="nat^2",
        range="[0, inf)",
        source="Vaswani et al. 2017, arXiv 1706.03762, footnote 4",
        compute=lambda rows: rows.variance,
        needs="logits",
    ),
    Diagnostic(
        name="logit_max",
        meaning="The largest logit, watched by QK-Clip.",
        formula="m",
        unit="nat",
        range="(-inf, inf)",
        source="Kimi K2, arXiv 2507.20534",
        compute=lambda rows: rows.statistics.maximum,
        needs="logits",
    ),
    Diagnostic(
        name="logit_min",
        meaning="The smallest logit.",
        formula="min of s_j",
        unit="nat",
        range="(-inf, inf)",
        source=_DEFINITION,
        compute=lambda rows: rows.statistics.minimum,
        needs="logits",
    ),
    Diagnostic(
        name="logit_max_abs",
        meaning="The largest magnitude among the logits.",
        formula="max of |s_j|",
        unit="nat",
        range="[0, inf)",
        source=_DEFINITION,
        compute=lambda rows: rows.max_abs,
        needs="logits",
    ),
    Diagnostic(
        name="saturation_index",
        meaning="Standard deviation of the logits over the one at which independent normal logits "
        "condense on few keys: 1 is the edge.",
        formula="sqrt(logit_variance) / sqrt(2 ln n)",
        unit="1",
        range="[0, inf)",
        source="random energy model, arXiv 2505.24333",
        compute=saturation_index,
        needs="logits",
        normalizers=EXPONENTIAL,
        least_keys=2,
    ),
)
