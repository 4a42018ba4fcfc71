"""How much gradient still passes the softmax: J = diag(p) − p pᵀ."""

import numpy as np

from service.diagnostics.base import SOFTMAX, Diagnostic
from service.diagnostics.rows import Figures, Rows


def trace(rows: Rows) -> Figures:
    """1 − Σp² as (t/l)(1 + P) − Q, which keeps its digits when the row is nearly one-hot."""
    found: Figures = np.maximum(rows.rest * (1 + rows.largest) - rows.squares, 0.0)
    return found


def frobenius(rows: Rows) -> Figures:
    """Sqrt(Σp² − 2Σp³ + (Σp²)²), with the argmax's terms gathered."""
    largest, squares = rows.largest, rows.squares
    inner = np.square(largest * rows.rest) + squares * (1 + 2 * np.square(largest) + squares)
    inner -= 2 * rows.cubes
    found: Figures = np.sqrt(np.maximum(inner, 0.0))
    return found


def second_weight(rows: Rows) -> Figures:
    """The second largest weight."""
    found: Figures = rows.largest * np.exp(rows.statistics.second - rows.statistics.maximum)
    return found


def spectral_upper(rows: Rows) -> Figures:
    """The smaller of the largest weight and 1/2."""
    found: Figures = np.minimum(rows.largest, 0.5)
    return found


def variance_under_p(rows: Rows) -> Figures:
    """Variance of the logits with the weights as probabilities."""
    return rows.statistics.spread / rows.total


JACOBIAN = (
    Diagnostic(
        name="jacobian_trace",
        meaning="The vanishing-gradient number: the sum of the Jacobian's eigenvalues, which falls "
        "monotonically to 0 as a row sharpens to one-hot.",
        formula="(t/l)(1 + P) - Q = 1 - sum p^2",
        unit="1",
        range="[0, 1 - 1/n]",
        source="J = diag(p) - p pᵀ",
        compute=trace,
        normalizers=SOFTMAX,
    ),
    Diagnostic(
        name="jacobian_frobenius",
        meaning="RMS norm of the gradient on the logits for a standard normal gradient on the "
        "weights. Small for one-hot rows, and for uniform rows over many keys too: not a measure "
        "of saturation by itself.",
        formula="sqrt(P^2 (t/l)^2 + Q (1 + 2 P^2 + Q) - 2 R)",
        unit="1",
        range="[0, 1/2]",
        source="J = diag(p) - p pᵀ",
        compute=frobenius,
        normalizers=SOFTMAX,
    ),
    Diagnostic(
        name="jacobian_spectral_lower",
        meaning="The Jacobian's largest eigenvalue is at least the second largest weight.",
        formula="p of the second largest logit",
        unit="1",
        range="[0, 1/2]",
        source="Cauchy interlacing, Golub 1973",
        compute=second_weight,
        normalizers=SOFTMAX,
        least_keys=2,
    ),
    Diagnostic(
        name="jacobian_spectral_upper",
        meaning="The Jacobian's largest eigenvalue is at most this.",
        formula="min(max weight, 1/2)",
        unit="1",
        range="[0, 1/2]",
        source="Cauchy interlacing, Golub 1973; softmax is 1/2-Lipschitz",
        compute=spectral_upper,
        normalizers=SOFTMAX,
    ),
    Diagnostic(
        name="logit_variance_under_p",
        meaning="How fast entropy answers to an inverse temperature β: dH/dβ = -β times this.",
        formula="sum of p (s - sum of p s)^2 = Var_p(s)",
        unit="nat^2",
        range="[0, inf)",
        source="dH/dβ = -β Var_p(s)",
        compute=variance_under_p,
        normalizers=SOFTMAX,
    ),
)
