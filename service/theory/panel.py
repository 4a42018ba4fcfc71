"""Theory beside the measurement: what independent normal entries would give, and how far off."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from schemas.inputs import SeededInputs
from service.operands import Operands
from service.shape import Shape
from service.theory.asymptotes import LIMIT, critical_sigma, entropy_limit, participation_limit
from service.theory.normal_logits import (
    expected_entropy,
    expected_sum_of_squares,
    mean_over_rows,
)
from service.theory.scores import (
    FOOTNOTE,
    expected_row_variance,
    pooled_second_moment,
    second_moment_standard_error,
)

_MOST_GROUPS = 256
_NO_ERROR = "the standard error is known for means of 0 and no mask only"
_NO_SPREAD = (
    f"the standard error is the spread over 2 to {_MOST_GROUPS} independent (batch, kv head) pairs"
)
_NO_ROWS = "no row has two visible keys and finite logits"
_FINITE = "exact for n iid normal logits, averaged over the measured query norms"


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured per row (batch, heads, N), float64, and what stood between."""

    visible: Tensor
    score_mean: Tensor
    score_variance: Tensor
    entropy: Tensor
    sum_of_squares: Tensor
    masked: bool
    reshaped: str | None
    """What makes the rows other than the softmax of normal logits."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """A prediction, its measured counterpart and their distance in standard errors."""

    predicted: float | None
    measured: float | None
    standard_error: float | None
    source: str
    reason: str | None = None
    """Why the prediction, or only its standard error, is missing."""

    @property
    def z(self) -> float | None:
        """(measured − predicted) / standard error."""
        if self.predicted is None or self.measured is None or not self.standard_error:
            return None
        return (self.measured - self.predicted) / self.standard_error


@dataclass(frozen=True, slots=True)
class Panel:
    """Predictions beside measurements, and the limits labelled as such."""

    assumption: str
    score_variance: Prediction
    row_variance: Prediction
    entropy: Prediction
    participation: Prediction
    asymptotes: dict[str, object]


@dataclass(frozen=True, slots=True)
class _Moments:
    query_mean: float
    query_std: float
    key_mean: float
    key_std: float
    key_std_by_head: Tensor
    assumption: str


def compare(
    shape: Shape,
    taken: Operands,
    measured: Measured,
    scale: float | Tensor | None,
    seeded: SeededInputs | None,
) -> Panel | None:
    """Predict scores, entropy and Σp², where query and key are given or drawn.

    Args:
        shape: the resolved extents.
        taken: query (batch, heads, N, d_k) and key (batch, kv_heads, M, d_k).
        measured: figures per row.
        scale: the factor on the scores, one or one a row (batch, heads, N).
        seeded: the draw, whose moments are known; else they are estimated from the tensors.
    """
    query, key, d_k = taken.query, taken.key, shape.d_k
    if query is None or key is None or scale is None or d_k is None:
        return None
    moments = _moments(query, key, seeded)
    used = measured.visible > 0
    self_attention = key is query
    reason = (
        "key is the query itself: their entries are not independent" if self_attention else None
    )
    score = _score_variance(shape, d_k, measured, moments, used, reason)
    row = _row_variance(shape, d_k, measured, moments, reason)
    norms = torch.linalg.vector_norm(query.double(), dim=-1).cpu()
    key_std = moments.key_std_by_head.repeat_interleave(shape.group, 1)
    sigma = abs(scale * norms * key_std.unsqueeze(-1))
    entropy, squares = _softmax_rows(shape, measured, sigma, reason)
    return Panel(
        moments.assumption,
        score,
        row,
        entropy,
        squares,
        _asymptotes(sigma, measured.visible) if measured.reshaped is None else {},
    )


def _moments(query: Tensor, key: Tensor, seeded: SeededInputs | None) -> _Moments:
    lead = key.shape[:2]
    if seeded is not None:
        mean, std = seeded.mean, seeded.std
        by_head = torch.full(lead, std, dtype=torch.float64)
        text = f"independent normal entries of mean {mean:g} and standard deviation {std:g}"
        return _Moments(mean, std, mean, std, by_head, text)
    wide = key.double()
    # A mean common to all keys moves whole rows and leaves the softmax alone, so each head's spread
    # is taken about its own mean key.
    by_head = wide.var(2, correction=0).mean(-1).sqrt().cpu()
    q_mean, q_std = float(query.double().mean()), float(query.double().std(correction=0))
    k_mean, k_std = float(wide.mean()), float(wide.std(correction=0))
    text = "independent normal entries with the moments measured on these tensors"
    return _Moments(q_mean, q_std, k_mean, k_std, by_head, text)


def _score_variance(
    shape: Shape, d_k: int, measured: Measured, m: _Moments, used: Tensor, reason: str | None
) -> Prediction:
    predicted = pooled_second_moment(d_k, m.query_mean, m.query_std, m.key_mean, m.key_std)
    second = measured.score_variance + measured.score_mean.square()
    weight = torch.where(used & torch.isfinite(second), measured.visible, 0.0)
    total = float(weight.sum())
    found = float((weight * second.nan_to_num()).sum()) / total if total else None
    error: float | None = None
    without_error: str | None = _NO_ERROR
    if not measured.masked and m.query_mean == 0 == m.key_mean:
        without_error = None
        error = second_moment_standard_error(
            predicted,
            d_k=d_k,
            batch=shape.batch,
            heads=shape.heads,
            kv_heads=shape.kv_heads,
            queries=shape.query_length,
            keys=shape.key_length,
        )
    source = f"pooled second moment; d_k at mean 0 and variance 1: {FOOTNOTE}"
    return Prediction(None if reason else predicted, found, error, source, reason or without_error)


def _row_variance(
    shape: Shape, d_k: int, measured: Measured, m: _Moments, reason: str | None
) -> Prediction:
    several = measured.visible >= 2
    source = f"mean variance within a row, (1 - 1/n) d_k (s_q^2 + m_q^2) s_k^2: {FOOTNOTE}"
    figures = measured.score_variance[several & torch.isfinite(measured.score_variance)]
    if not figures.numel():
        return Prediction(None, None, None, source, _NO_ROWS)
    expected = expected_row_variance(
        d_k, m.query_mean, m.query_std, m.key_std, measured.visible[several]
    )
    predicted, found = float(expected.mean()), float(figures.mean())
    error: float | None = None
    without_error: str | None = _NO_ERROR
    if not measured.masked and m.query_mean == 0 and shape.key_length > 1:
        without_error = None
        error = second_moment_standard_error(
            predicted,
            d_k=d_k,
            batch=shape.batch,
            heads=shape.heads,
            kv_heads=shape.kv_heads,
            queries=shape.query_length,
            keys=shape.key_length - 1,
        )
    return Prediction(None if reason else predicted, found, error, source, reason or without_error)


def _softmax_rows(
    shape: Shape, measured: Measured, sigma: Tensor, reason: str | None
) -> tuple[Prediction, Prediction]:
    """Entropy and Σp²; the error is the spread between independent (batch, kv head) pairs."""
    reason = reason or measured.reshaped
    several = (measured.visible >= 2) & torch.isfinite(measured.entropy)
    if not bool(several.any()):
        nothing = Prediction(None, None, None, _FINITE, _NO_ROWS)
        return nothing, nothing
    found = float(measured.entropy[several].mean()), float(measured.sum_of_squares[several].mean())
    if reason is not None:
        return tuple(Prediction(None, f, None, _FINITE, reason) for f in found)  # type: ignore[return-value]
    predicted = mean_over_rows(sigma[several], measured.visible[several])
    errors = _spread(shape, measured, sigma, several)
    pairs = [
        Prediction(_finite(p), f, e, _FINITE, _NO_SPREAD if e is None else None)
        for p, f, e in zip(predicted, found, errors, strict=True)
    ]
    return pairs[0], pairs[1]


def _spread(
    shape: Shape, measured: Measured, sigma: Tensor, several: Tensor
) -> tuple[float | None, float | None]:
    groups = shape.batch * shape.kv_heads
    if not 2 <= groups <= _MOST_GROUPS:
        return None, None
    columns = (measured.entropy, measured.sum_of_squares, sigma, measured.visible)
    use = several.reshape(groups, -1)
    if not bool(use.any(-1).all()):
        return None, None
    # One evaluation at each group's mean σ and n: what that misses is alike in all groups.
    entropy, squares, sigma, visible = (
        torch.where(use, c.reshape(groups, -1), 0.0).sum(-1) / use.sum(-1) for c in columns
    )
    gaps = torch.stack(
        [
            entropy - expected_entropy(sigma, visible),
            squares - expected_sum_of_squares(sigma, visible),
        ]
    )
    spread = gaps.std(-1) / math.sqrt(groups)
    return _finite(float(spread[0])), _finite(float(spread[1]))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _asymptotes(sigma: Tensor, visible: Tensor) -> dict[str, object]:
    several = visible >= 2
    if not bool(several.any()):
        return {}
    mean_sigma, keys = sigma[several].mean(), visible[several].mean()
    return {
        "sigma": float(mean_sigma),
        "keys": float(keys),
        "critical_sigma": float(critical_sigma(keys)),
        "entropy": {"value": float(entropy_limit(mean_sigma, keys)), "source": LIMIT},
        "participation": {"value": float(participation_limit(mean_sigma, keys)), "source": LIMIT},
    }
