"""Softmax under the lens: logits in, weights and what they tell out."""

from typing import Any, Literal

from pydantic import Field

from schemas.attention import Timing
from schemas.diagnostics import Aggregate, Numerics, Verdict
from schemas.strict import Answer, Strict
from schemas.tensors import LogitTensor

MOST_JACOBIAN_KEYS = 256


class SoftmaxRequest(Strict):
    """Logits of any rank from 1 to 4; the softmax runs over the last axis."""

    logits: LogitTensor = Field(description="(…, keys); null = minus infinity = forbidden.")
    jacobian: bool = Field(
        default=False,
        description=f"The matrix diag(p) - p pᵀ of each row, up to {MOST_JACOBIAN_KEYS} keys.",
    )
    tensor_format: Literal["nested", "flat", "base64"] = "nested"


class SoftmaxAnswer(Answer):
    """Weights and Jacobians have the axes of the logits; figures are per (batch, head, query)."""

    weights: Any
    jacobian: Any = Field(None, description="(…, keys, keys).")
    diagnostics: dict[str, Aggregate]
    row_diagnostics: dict[str, Any]
    verdict: Verdict
    numerics: Numerics
    device: str
    torch: str
    timing_ms: Timing
    batch_size: int
    request_id: str
