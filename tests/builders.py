"""What tests share: analyses in-process, seeded tensors, oracles written without the service."""

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import torch
from torch import Tensor

from schemas.attention import AttentionRequest
from service.analysis import analyse as run
from service.attention.statistics import RowStatistics
from service.attention.workers import Workers
from service.diagnostics import DIAGNOSTICS, Rows, evaluate
from service.plan import plan
from service.report import Analysis
from service.runtime import Runtime

CPU = torch.device("cpu")
SOFTMAX_DIAGNOSTICS = {
    name: member
    for name, member in DIAGNOSTICS.items()
    if member.needs != "hidden" and not member.trivial_for_softmax
}
"""What an answer has for dot products and softmax."""


def analyse(
    *, threads: int = 1, checkpoint: Callable[[], None] = lambda: None, **request: Any
) -> Analysis:
    """Run one analysis; tensors stand in the request as they are."""
    workers = Workers(threads)
    try:
        runtime = Runtime(CPU, workers, checkpoint)
        return run(plan(AttentionRequest.model_validate(request)), runtime)
    finally:
        workers.close()


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal entries, the same ones in every dtype."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(dtype)


def qkv(query: Tensor, key: Tensor | None = None, value: Tensor | None = None) -> dict[str, Any]:
    """Inputs of kind tensors."""
    named = {"query": query, "key": key, "value": value}
    return {"kind": "tensors", **{n: t for n, t in named.items() if t is not None}}


def given_logits(logits: Tensor, value: Tensor | None = None) -> dict[str, Any]:
    """Inputs of kind logits."""
    return {"kind": "logits", "logits": logits, "value": value}


def given_weights(weights: Tensor, value: Tensor | None = None) -> dict[str, Any]:
    """Inputs of kind weights."""
    return {"kind": "weights", "weights": weights, "value": value}


def same_bytes(left: Tensor, right: Tensor) -> bool:
    """Whether two tensors hold the same bytes: NaN equals NaN, 0 differs from −0."""
    return left.dtype == right.dtype and left.shape == right.shape and _bytes(left) == _bytes(right)


def _bytes(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def everything(analysis: Analysis) -> dict[str, Tensor]:
    """All tensors and all figures per row."""
    return {**analysis.tensors, **analysis.rows}


def figures_of(statistics: RowStatistics, *, scale: float = 1.0) -> dict[str, Tensor]:
    """Every diagnostic (…, rows) of statistics of that shape."""
    lead = statistics.visible.shape
    flat = RowStatistics(*statistics.stack().reshape(-1, 1, 1, lead.numel()).unbind())
    figures = evaluate(list(SOFTMAX_DIAGNOSTICS.values()), Rows.of(flat, scale=scale))
    return {name: figure.view(lead) for name, figure in figures.items()}


def plain_figures(logits: Tensor) -> dict[str, Tensor]:
    """Every diagnostic that follows from logits (…, keys), −∞ hidden, by its plain definition."""
    s = logits.double()
    seen = s != -math.inf
    n = seen.sum(-1).double()
    p = torch.where(seen, torch.softmax(torch.where(seen, s, -math.inf), -1), 0.0)
    shown = torch.where(seen, s, 0.0)
    mean = shown.sum(-1) / n
    variance = torch.where(seen, s - mean.unsqueeze(-1), 0.0).square().sum(-1) / n
    entropy = torch.special.entr(p).sum(-1)
    two = torch.cat([s, torch.full_like(s[..., :1], -math.inf)], -1).topk(2, -1)
    first_two = p.gather(-1, two.indices.clamp(max=s.shape[-1] - 1))
    average = (p * shown).sum(-1)
    jacobian = torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2)
    figures = {
        "visible_keys": n,
        "argmax": s.argmax(-1).double(),
        "lse": s.logsumexp(-1),
        "entropy": entropy,
        "normalized_entropy": entropy / n.log(),
        "effective_keys": entropy.exp(),
        "participation_ratio": 1 / p.square().sum(-1),
        "max_weight": p.amax(-1),
        "logit_gap": two.values[..., 0] - two.values[..., 1],
        "logit_mean": mean,
        "logit_variance": variance,
        "logit_max": s.amax(-1),
        "logit_min": torch.where(seen, s, math.inf).amin(-1),
        "logit_max_abs": shown.abs().amax(-1),
        "saturation_index": variance.sqrt() / (2 * n.log()).sqrt(),
        "jacobian_trace": jacobian.diagonal(dim1=-2, dim2=-1).sum(-1),
        "jacobian_frobenius": torch.linalg.matrix_norm(jacobian),
        "jacobian_spectral_lower": first_two[..., 1],
        "jacobian_spectral_upper": p.amax(-1).clamp(max=0.5),
        "logit_variance_under_p": (p * (shown - average.unsqueeze(-1)).square()).sum(-1),
    }
    return {name: undefined_where_it_must_be(name, f, n) for name, f in figures.items()}


PAIRS = ("normalized_entropy", "logit_gap", "saturation_index", "jacobian_spectral_lower")
"""The diagnostics that take two visible keys."""


def undefined_where_it_must_be(name: str, figures: Tensor, n: Tensor) -> Tensor:
    """Without a visible key n is 0, the argmax −1, the log-sum-exp −∞ and everything else NaN."""
    empty = {"visible_keys": 0.0, "argmax": -1.0, "lse": -math.inf}
    figures = torch.where(n > 0, figures, empty.get(name, math.nan))
    return torch.where(n > 1, figures, math.nan) if name in PAIRS else figures


def visible_pairs(
    shape: tuple[int, int, int, int],
    *,
    causal: str = "none",
    offset: Tensor | None = None,
    window: dict[str, int] | None = None,
    key_lengths: Tensor | None = None,
    allowed: Tensor | None = None,
    bias: Tensor | None = None,
    forbid_below: float = -math.inf,
    query_rank: int = 4,
) -> Tensor:
    """Which keys a mask request leaves visible, pair by pair: boolean (batch, heads, N, M)."""
    batch, heads, queries, keys = shape
    seen = torch.zeros(shape, dtype=torch.bool)
    for b, h, i, j in product(range(batch), range(heads), range(queries), range(keys)):
        length = keys if key_lengths is None else int(key_lengths[b])
        place = i + (length - queries if causal == "lower_right" else 0)
        if offset is not None:
            place = i + int(offset if offset.dim() == 0 else offset[b])
        left, right = ((window or {}).get(side) for side in ("left", "right"))
        pair = (b, h, i, j)
        may = True if allowed is None else entry(allowed, pair, query_rank, keys)
        added = 0.0 if bias is None else entry(bias, pair, query_rank, keys)
        seen[pair] = (
            (causal == "none" or j <= place)
            and (left is None or j >= place - left)
            and (right is None or j <= place + right)
            and j < length
            and may is True
            and added is not None
            and added != -math.inf
            and added >= forbid_below
        )
    return seen


def entry(
    tensor: Tensor, pair: tuple[int, int, int, int], query_rank: int, keys: int
) -> float | bool | None:
    """The entry of a mask tensor of rank 2, 3 or 4 for one pair; None where it is too short."""
    b, h, i, j = pair
    third = h if query_rank == 4 else b
    index = {2: (i, j), 3: (third, i, j), 4: (b, h, i, j)}[tensor.dim()]
    if 1 < tensor.shape[-1] < keys and j >= tensor.shape[-1]:
        return None
    return tensor[
        tuple(0 if e == 1 else at for e, at in zip(tensor.shape, index, strict=True))
    ].item()
