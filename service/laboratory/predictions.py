"""What theory says of a point of a sweep: exact at its number of keys, and in the limit."""

import math
from typing import Any

import torch

from service.theory.asymptotes import LIMIT, critical_sigma, entropy_limit, participation_limit
from service.theory.normal_queries import expected_rows
from service.theory.scores import FOOTNOTE, expected_row_variance

VARIANCE = (
    f"(1 - 1/n) d_k, and scale^2 times that for logits: {FOOTNOTE}, as the variance within a row "
    "of n keys"
)
_ROWS = (
    "with w = exp(y + sigma Z), phi = E exp(-w), Z normal: exact for n iid N(0, sigma^2) logits, "
    "sigma = |scale| |q|, averaged over |q| ~ chi(d_k)"
)
ENTROPY = f"n int E[w exp(-w) (-0.5772 - ln w)] phi^(n-1) dy {_ROWS}"
SQUARES = f"sum p^2 = n int E[w^2 exp(-w)] phi^(n-1) dy {_ROWS}"


def predictions(d_k: int, scale: float, keys: int) -> dict[str, dict[str, Any]]:
    """Score and logit variance, entropy and Σp² (participation), with what follows from them."""
    variance = expected_row_variance(d_k, 0.0, 1.0, 1.0, float(keys))
    entropy, squares = expected_rows(d_k, scale, keys)
    normalized = entropy / math.log(keys) if keys > 1 else math.nan
    return {
        "score_variance": _predicted(variance, VARIANCE),
        "logit_variance": _predicted(scale**2 * variance, VARIANCE),
        "entropy": _predicted(entropy, ENTROPY),
        "normalized_entropy": _predicted(normalized, ENTROPY),
        "participation": _predicted(squares, SQUARES),
        "jacobian_trace": _predicted(1 - squares, f"1 - {SQUARES}"),
    }


def _predicted(value: float, source: str) -> dict[str, Any]:
    valid = math.isfinite(value)
    return {"value": value if valid else None, "source": source, "valid": valid}


def asymptotes(d_k: int, scale: float, keys: int) -> dict[str, dict[str, Any]]:
    """The limits at σ = |scale|·sqrt(d_k), and σ_c itself."""
    sigma = torch.tensor(abs(scale) * math.sqrt(d_k), dtype=torch.float64)
    n = torch.tensor(float(keys), dtype=torch.float64)
    squares = float(participation_limit(sigma, n))
    limits = {
        "entropy": float(entropy_limit(sigma, n)),
        "participation": squares,
        "jacobian_trace": 1 - squares,
        "saturation_index": float(sigma / critical_sigma(n)),
    }
    return {
        name: {"value": value if math.isfinite(value) else None, "source": LIMIT}
        for name, value in limits.items()
    }
