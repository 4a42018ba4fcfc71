"""Weighing values that hold NaN or infinity, so that they reach exactly the rows that see them."""

import torch
from torch import Tensor


def weigh_nonfinite(weights: Tensor, value: Tensor, visible: Tensor) -> Tensor:
    """Weights @ value by IEEE rules over the visible keys only.

    A plain product would give 0 · NaN = NaN for forbidden keys. Over visible ones the rules are
    those of IEEE 754: NaN stays NaN, 0 · ∞ and ∞ − ∞ are NaN.

    Args:
        weights: (heads, rows, keys), 0 where hidden.
        value: (heads, keys, d_v).
        visible: boolean (heads, rows, keys).

    Returns:
        (heads, rows, d_v).
    """
    finite = torch.bmm(weights, torch.where(torch.isfinite(value), value, 0.0))
    # Hidden NaN weights cannot occur: a poisoned row has NaN weights throughout.
    reached = visible.to(value.dtype)
    positive = (visible & (weights > 0)).to(value.dtype)
    nan = _hits(reached, torch.isnan(value)) | _hits(reached - positive, torch.isinf(value))
    above = _hits(positive, torch.isposinf(value))
    below = _hits(positive, torch.isneginf(value))
    infinite = torch.where(above, float("inf"), torch.where(below, float("-inf"), finite))
    return torch.where(nan | (above & below) | torch.isnan(finite), float("nan"), infinite)


def _hits(rows: Tensor, marked: Tensor) -> Tensor:
    return torch.bmm(rows, marked.to(rows.dtype)) > 0
