"""How saturated the hidden units of an additive score are: it can saturate before its softmax."""

import numpy as np

from service.diagnostics.base import Diagnostic
from service.diagnostics.rows import Figures, Rows


def _mean(name: str, rows: Rows) -> Figures:
    return rows.figures[name] / rows.count


def bound(rows: Rows) -> Figures:
    """Σ |v|, the same for all rows."""
    return np.full_like(rows.visible, rows.constants["score_bound"])


def bound_share(rows: Rows) -> Figures:
    """Max |score| / Σ |v|."""
    return rows.score_max_abs / rows.constants["score_bound"]


HIDDEN = (
    Diagnostic(
        name="tanh_saturated",
        meaning="Share of the hidden units, over the visible keys, whose |tanh| is above 0.99: "
        "there less than 2 % of the gradient passes.",
        formula="mean over keys and hidden units of [|tanh| > 0.99]",
        unit="1",
        range="[0, 1]",
        source="Glorot and Bengio 2010, section 3.2 (saturated units)",
        compute=lambda rows: _mean("tanh_saturated", rows),
        needs="hidden",
    ),
    Diagnostic(
        name="tanh_gradient",
        meaning="How much gradient passes the hidden units, on average: 1 where they are linear.",
        formula="mean over keys and hidden units of 1 - tanh^2",
        unit="1",
        range="[0, 1]",
        source="d tanh(x)/dx = 1 - tanh^2 x",
        compute=lambda rows: _mean("tanh_gradient", rows),
        needs="hidden",
    ),
    Diagnostic(
        name="score_bound",
        meaning="No score of this mechanism is larger, whatever query and key are.",
        formula="sum of |v|",
        unit="1",
        range="[0, inf)",
        source="|tanh| <= 1",
        compute=bound,
        needs="hidden",
    ),
    Diagnostic(
        name="score_bound_share",
        meaning="The row's largest score over that bound: near 1, all hidden units pull together "
        "at full stretch.",
        formula="max |score| / sum of |v|",
        unit="1",
        range="[0, 1]",
        source="|tanh| <= 1",
        compute=bound_share,
        needs="hidden",
    ),
)
