"""Which keys a row sees, and which it prefers."""

import numpy as np

from service.diagnostics.base import EXPONENTIAL, Diagnostic
from service.diagnostics.rows import Figures, Rows


def argmax(rows: Rows) -> Figures:
    """Index of the preferred key; −1 where there is none."""
    found = rows.statistics.argmax
    return found if rows.complete else np.where(rows.sound, found, -1.0)


def lse(rows: Rows) -> Figures:
    """The log-sum-exp, NaN where a logit overflowed."""
    found = rows.log_partition
    return found if rows.complete else np.where(rows.sound, found, np.nan)


KEYS = (
    Diagnostic(
        name="visible_keys",
        meaning="How many keys the row may attend to.",
        formula="n",
        unit="keys",
        range="[0, key_length]",
        source="count",
        compute=lambda rows: rows.visible,
        least_keys=0,
    ),
    Diagnostic(
        name="argmax",
        meaning="The key with the largest weight, the first of them on ties; -1 without a key.",
        formula="argmax_j s_j",
        unit="index",
        range="[-1, key_length - 1]",
        source="definition",
        compute=argmax,
        least_keys=0,
        aggregated=False,
    ),
    Diagnostic(
        name="lse",
        meaning="Log-sum-exp of the logits, what flash attention keeps of a row; minus infinity "
        "without a key. The logarithm of the divisor: softmax_one counts its 1.",
        formula="m + log1p(t), t = sum over j != argmax of exp(s_j - m); softmax_one ln(1 + exp of "
        "that)",
        unit="nat",
        range="(-inf, inf)",
        source="Dao et al. 2022, FlashAttention, arXiv 2205.14135",
        compute=lse,
        needs="logits",
        least_keys=0,
        normalizers=EXPONENTIAL,
    ),
)
