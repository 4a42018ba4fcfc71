"""Every mechanism in every way it can be asked for, beside the readable formula of its scores."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from service.mechanisms import reference
from service.normalizers import reference as normalizers
from tests.builders import normal, qkv, visible_pairs

BATCH, KV_HEADS, HEADS, QUERIES, KEYS = 2, 3, 6, 5, 7
D_Q, D_K, D_V, HIDDEN = 9, 11, 13, 17
QUERY_DIM, KEY_DIM, VALUE_DIM, OUTPUT_DIM, HEAD_DIM, HEAD_VALUE = 10, 12, 14, 15, 4, 8
SHAPE = (BATCH, HEADS, QUERIES, KEYS)
DOUBLE = torch.float64

Heads = tuple[Tensor, Tensor]
"""Scores (batch, heads, N, M) and the value (batch, heads, M, d_v) that the weights meet."""


def double(*shape: int, seed: int) -> Tensor:
    return normal(*shape, seed=seed, dtype=DOUBLE)


@dataclass(frozen=True)
class Variant:
    """What a request says, and what must come of it."""

    mechanism: dict[str, Any]
    heads: Callable[[Tensor, Tensor, Tensor], Heads]
    scale: float = 1.0
    d_q: int = D_Q
    finish: Callable[[Tensor], Tensor] = lambda heads: heads

    @property
    def undivided(self) -> bool:
        """Whether the inputs have no heads of their own."""
        return self.mechanism["kind"] == "multi_head"

    def operands(self, dtype: torch.dtype = DOUBLE, seed: int = 0) -> tuple[Tensor, ...]:
        """Query, key and value, each axis of another size."""
        shapes: tuple[tuple[int, ...], ...] = (
            (BATCH, HEADS, QUERIES, self.d_q),
            (BATCH, KV_HEADS, KEYS, D_K),
            (BATCH, KV_HEADS, KEYS, D_V),
        )
        if self.undivided:
            shapes = (
                (BATCH, QUERIES, QUERY_DIM),
                (BATCH, KEYS, KEY_DIM),
                (BATCH, KEYS, VALUE_DIM),
            )
        return tuple(
            normal(*shape, seed=100 * seed + i, dtype=dtype) for i, shape in enumerate(shapes, 1)
        )

    def request(self, operands: tuple[Tensor, ...], **options: Any) -> dict[str, Any]:
        """Inputs and mechanism of a request."""
        return {"inputs": qkv(*operands), "mechanism": {**self.mechanism, **options}}

    def expected(
        self,
        operands: tuple[Tensor, ...],
        *,
        normalizer: str = "softmax",
        mask: dict[str, Any] | None = None,
        scale: float | None = None,
        softcap: float | None = None,
    ) -> dict[str, Tensor]:
        """Output, weights, logits and scores by the readable formulas, in float64."""
        mask = mask or {}
        scores, value = self.heads(*(t.double() for t in operands))
        logits = scores * (self.scale if scale is None else scale)
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        if "bias" in mask:
            logits = logits + mask["bias"].double()
        logits = logits.masked_fill(~visible(mask), -math.inf)
        weights = getattr(normalizers, normalizer)(logits)
        output = self.finish(weights @ value)
        return {"output": output, "weights": weights, "logits": logits, "scores": scores}


def visible(mask: dict[str, Any]) -> Tensor:
    """Which keys a mask leaves visible, pair by pair, counted once for those of the table."""
    name = next((n for n, m in MASKS.items() if m is mask), None)
    return visible_pairs(SHAPE, **mask) if name is None else _visible(name)


@cache
def _visible(name: str) -> Tensor:
    return visible_pairs(SHAPE, **MASKS[name])


def grouped(score: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Heads]:
    """Query head h meets key/value head h // 2."""

    def heads(query: Tensor, key: Tensor, value: Tensor) -> Heads:
        key, value = (t.repeat_interleave(HEADS // KV_HEADS, 1) for t in (key, value))
        return score(query, key), value

    return heads


def l2(tensor: Tensor) -> Tensor:
    return tensor / tensor.square().sum(-1, keepdim=True).sqrt()


def rms(tensor: Tensor) -> Tensor:
    return tensor / (tensor.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def same(tensor: Tensor) -> Tensor:
    return tensor


NORMS = {"none": same, "l2": l2, "rms": rms}


def given(**tensors: Tensor) -> dict[str, Any]:
    """Parameters of kind given."""
    return {"kind": "given", **tensors}


ADDITIVE = {
    "query_weight": double(HIDDEN, D_Q, seed=11) / 3,
    "key_weight": double(HIDDEN, D_K, seed=12) / 3,
    "score_vector": double(HIDDEN, seed=13),
}
BIAS = double(HIDDEN, seed=14)
GENERAL = double(D_Q, D_K, seed=15) / 3
CONCAT = {
    "weight": double(HIDDEN, D_Q + D_K, seed=16) / 3,
    "score_vector": double(HIDDEN, seed=17),
}


def multi_head_weights(kv_heads: int, *, biases: bool) -> dict[str, Tensor]:
    """Projections whose every dimension differs."""
    shapes: dict[str, tuple[int, ...]] = {
        "query_weight": (HEADS * HEAD_DIM, QUERY_DIM),
        "key_weight": (kv_heads * HEAD_DIM, KEY_DIM),
        "value_weight": (kv_heads * HEAD_VALUE, VALUE_DIM),
        "output_weight": (OUTPUT_DIM, HEADS * HEAD_VALUE),
    }
    if biases:
        shapes |= {n.replace("weight", "bias"): shape[:1] for n, shape in shapes.items()}
    return {n: double(*shape, seed=20 + i) / 3 for i, (n, shape) in enumerate(shapes.items())}


def dot_product(norm: str = "none") -> Callable[..., Heads]:
    return grouped(lambda q, k: reference.dot(NORMS[norm](q), NORMS[norm](k)))


def multi_head(kv_heads: int, scale: float, norm: str = "none", *, biases: bool = True) -> Variant:
    """Multi-head attention with given weights."""
    weights = multi_head_weights(kv_heads, biases=biases)

    def heads(query: Tensor, key: Tensor, value: Tensor) -> Heads:
        q, k, v = reference.multi_head_operands(query, key, value, weights, HEADS, kv_heads)
        k, v = (t.repeat_interleave(HEADS // kv_heads, 1) for t in (k, v))
        return reference.dot(NORMS[norm](q), NORMS[norm](k)), v

    mechanism = {"kind": "multi_head", "heads": HEADS, "kv_heads": kv_heads, "qk_norm": norm}
    return Variant(
        {**mechanism, "parameters": given(**weights)},
        heads,
        scale,
        finish=lambda output: reference.multi_head_output(output, weights).unsqueeze(1),
    )


def multiplicative(score: str, heads: Callable[..., Heads], **options: Any) -> Variant:
    """Luong's attention."""
    d_q, scale = options.pop("d_q", D_Q), options.pop("resolved", 1.0)
    return Variant(
        {"kind": "multiplicative", "score": score, **options}, heads, scale=scale, d_q=d_q
    )


VARIANTS: dict[str, dict[str, Variant]] = {
    "scaled_dot_product": {
        "none": Variant({"kind": "scaled_dot_product"}, dot_product(), D_K**-0.5, D_K),
        "l2": Variant(
            {"kind": "scaled_dot_product", "qk_norm": "l2"}, dot_product("l2"), D_K**0.5, D_K
        ),
        "rms": Variant(
            {"kind": "scaled_dot_product", "qk_norm": "rms"}, dot_product("rms"), D_K**-0.5, D_K
        ),
    },
    "additive": {
        "without bias": Variant(
            {"kind": "additive", "parameters": given(**ADDITIVE)},
            grouped(lambda q, k: reference.additive(q, k, **ADDITIVE)),
        ),
        "with bias": Variant(
            {"kind": "additive", "parameters": given(**ADDITIVE, bias=BIAS)},
            grouped(lambda q, k: reference.additive(q, k, **ADDITIVE, bias=BIAS)),
        ),
    },
    "multiplicative": {
        "dot": multiplicative("dot", dot_product(), d_q=D_K),
        "dot rms": multiplicative("dot", dot_product("rms"), d_q=D_K, qk_norm="rms"),
        "dot l2": multiplicative(
            "dot", dot_product("l2"), d_q=D_K, qk_norm="l2", resolved=D_K**0.5
        ),
        "general": multiplicative(
            "general",
            grouped(lambda q, k: reference.general(q, k, GENERAL)),
            parameters=given(weight=GENERAL),
        ),
        "concat": multiplicative(
            "concat",
            grouped(lambda q, k: reference.concat(q, k, **CONCAT)),
            parameters=given(**CONCAT),
        ),
    },
    "multi_head": {
        "plain": multi_head(HEADS, HEAD_DIM**-0.5),
        "grouped without biases": multi_head(KV_HEADS, HEAD_DIM**-0.5, biases=False),
        "multi-query": multi_head(1, HEAD_DIM**-0.5),
        "rms": multi_head(KV_HEADS, HEAD_DIM**-0.5, "rms"),
        "l2": multi_head(KV_HEADS, HEAD_DIM**0.5, "l2"),
    },
}
ALL = {f"{kind}: {name}": v for kind, named in VARIANTS.items() for name, v in named.items()}

MASKS: dict[str, dict[str, Any]] = {
    "none": {},
    "causal": {"causal": "lower_right"},
    "padded": {"key_lengths": torch.tensor([4, 0]), "window": {"left": 5}},
    "allowed": {"allowed": normal(BATCH, 1, QUERIES, KEYS, seed=6) > -0.4},
    "bias": {
        "bias": double(1, HEADS, QUERIES, KEYS, seed=7).masked_fill(
            double(1, HEADS, QUERIES, KEYS, seed=8) > 0.9, -math.inf
        )
    },
}
