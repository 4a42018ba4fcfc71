"""How far a query can move before another key is preferred."""

import torch
from torch import Tensor

from service.attention.logits import Factor
from service.attention.whole_rows import WholeRows


def flip_margin(rows: WholeRows, argmax: Tensor, key: Tensor, scale: Factor) -> Tensor:
    """Min over visible j ≠ a with k_j ≠ k_a of (s_a − s_j) / (|scale| · ‖k_a − k_j‖).

    The bisector of two keys is a hyperplane in query space, so the argmax cannot change inside this
    distance, and does just outside it.

    Args:
        rows: whole rows of logits (heads, queries, M).
        argmax: the preferred key of each row (heads, queries), −1 without any.
        key: (kv_heads, M, d); heads share them evenly.
        scale: the factor on the scores, not 0; one, or one a row (heads, queries, 1).

    Returns:
        (heads, queries) in float64; NaN where no other key differs.
    """
    wide, group = key.double(), argmax.shape[0] // key.shape[0]
    margins = []
    for head, preferred in enumerate(argmax.long().clamp(min=0)):
        keys = wide[head // group]
        several, place = preferred.unique(return_inverse=True)
        # Not by ‖a‖² + ‖b‖² − 2ab, which loses the distance of keys that nearly agree.
        exactly = "donot_use_mm_for_euclid_dist"
        distance = torch.cdist(keys[several], keys, compute_mode=exactly)[place]
        other = rows.seen[head] & (distance > 0)
        factor: Factor = abs(scale) if isinstance(scale, float) else scale[head].double().abs()
        margin = (-rows.gaps[head].double()).clamp(min=0) / (factor * distance)
        nearest = torch.where(other, margin, float("inf")).amin(-1)
        margins.append(torch.where(other.any(-1), nearest, float("nan")))
    return torch.stack(margins)
