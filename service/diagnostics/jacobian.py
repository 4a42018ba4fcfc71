"""How much gradient still passes the softmax: J = diag(p) − p pᵀ."""

from torch import Tensor

from service.diagnostics.base import SOFTMAX, Diagnostic, Rows


def _rest(rows: Rows) -> Tensor:
    """1 − P, kept precise as t/l."""
    return rows.statistics.tail / rows.total


def trace(rows: Rows) -> Tensor:
    """1 − Σp² as (t/l)(1 + P) − Q, which keeps its digits when the row is nearly one-hot."""
    return (_rest(rows) * (1 + rows.largest) - rows.squares).clamp(min=0)


def frobenius(rows: Rows) -> Tensor:
    """Sqrt(Σp² − 2Σp³ + (Σp²)²), with the argmax's terms gathered."""
    largest, squares = rows.largest, rows.squares
    inner = (largest * _rest(rows)).square() + squares * (1 + 2 * largest.square() + squares)
    return (inner - 2 * rows.cubes).clamp(min=0).sqrt()


def second_weight(rows: Rows) -> Tensor:
    """The second largest weight."""
    gap = rows.statistics.maximum - rows.statistics.second
    return rows.largest * (-gap).exp()


def spectral_upper(rows: Rows) -> Tensor:
    """The smaller of the largest weight and 1/2."""
    return rows.largest.clamp(max=0.5)


def variance_under_p(rows: Rows) -> Tensor:
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
