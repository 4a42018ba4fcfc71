"""What a picture draws of a sweep or of a comparison, and on what kind of axis."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Quantity:
    """A figure by its name in the answers, the title of its panel, and its axis.

    `top` is the end of an axis from 0; without it the axis ends at the largest value. A logarithmic
    axis runs over whole decades.
    """

    name: str
    title: str
    axis: str
    top: float | None = None
    logarithmic: bool = False


OF_SWEEPS = (
    Quantity("logit_variance", "Variance of the logits", "variance (nat²)", logarithmic=True),
    Quantity("entropy", "Entropy of the weights", "entropy (nat)"),
    Quantity("max_weight", "Largest weight", "weight (share of the row)", top=1),
    Quantity("jacobian_trace", "Trace of the softmax Jacobian", "trace (1)", top=1),
    Quantity(
        "jacobian_frobenius",
        "Frobenius norm of the softmax Jacobian\n(small for uniform rows too: not saturation)",
        "norm (1)",
        top=0.5,
    ),
    Quantity("gradient_query_rms", "Gradient on the query", "RMS (1)", logarithmic=True),
    Quantity(
        "gradient_vanished_rows",
        "Rows whose query gets less than a tenth\nof the gradient of equal weights",
        "share of the rows (1)",
        top=1,
    ),
    Quantity("saturated_share", "Saturated rows", "share of the rows (1)", top=1),
    Quantity("sparsity", "Keys of next to no weight", "share of the keys (1)", top=1),
    Quantity("jacobian_spectral", "Largest eigenvalue of the Jacobian", "eigenvalue (1)", top=0.5),
    Quantity("flip_margin", "Distance to another preferred key", "distance in query space (1)"),
    Quantity("perturbation_l1", "Weights moved by the noise", "L1 distance (1)"),
    Quantity("perturbation_output", "Output moved by the noise", "relative L2 (1)"),
)

OF_COMPARISONS = (
    Quantity("normalized_entropy", "Entropy over that of uniform weights", "share (1)", top=1),
    Quantity("max_weight", "Largest weight", "share of the row (1)", top=1),
    Quantity("jacobian_trace", "Trace of the softmax Jacobian", "trace (1)", top=1),
    Quantity("saturated_share", "Saturated rows", "share of the rows (1)", top=1),
    Quantity("output_change", "Change of the output", "relative L2 (1)"),
)
