"""The attention family by its readable formulas, differentiable, in float64: what oracles share."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from service.mechanisms import reference as scores
from service.normalizers import reference as normalizers
from tests.builders import normal, qkv

BATCH, HEADS, KV_HEADS, QUERIES, KEYS, D_V, HIDDEN = 2, 6, 3, 5, 7, 11, 10
"""Every axis has a size of its own; two query heads share one of keys."""
WIDE = torch.float64
KINDS = ("scaled_dot_product", "additive", "dot", "general", "concat", "multi_head")
NORMALIZERS = ("softmax", "softmax_one", "sparsemax", "entmax15", "sigmoid")
OPERANDS = ("query", "key", "value")


@dataclass
class Case:
    """A mechanism, its inputs and learned weights."""

    kind: str
    options: dict[str, Any]
    inputs: dict[str, Tensor]
    weights: dict[str, Tensor] = field(default_factory=dict)

    @property
    def mechanism(self) -> dict[str, Any]:
        """As a request names it."""
        name, own = self.kind, dict(self.options)
        if name in ("dot", "general", "concat"):
            name, own = "multiplicative", {"score": name, **own}
        if name == "multi_head":
            own = {"heads": HEADS, "kv_heads": KV_HEADS, **own}
        if self.weights:
            own["parameters"] = {"kind": "given", **self.weights}
        return {"kind": name, **own}

    @property
    def request(self) -> dict[str, Any]:
        """Mechanism and inputs of a request."""
        return {"mechanism": self.mechanism, "inputs": qkv(**self.inputs)}

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Inputs and learned weights, in float64."""
        return {n: t.to(WIDE) for n, t in {**self.inputs, **self.weights}.items()}

    @property
    def scale(self) -> float:
        """The factor on the scores."""
        if (given := self.options.get("scale")) is not None:
            return given
        dim = self.inputs["key"].shape[-1] if self.kind != "multi_head" else 4
        if self.options.get("qk_norm") == "l2":
            return math.sqrt(dim)
        return 1 / math.sqrt(dim) if self.kind in ("scaled_dot_product", "multi_head") else 1.0


def case_of(kind: str, *, dtype: torch.dtype = WIDE, std: float = 1.0, **options: Any) -> Case:
    """A case with its own sizes, all biases given."""
    d_q = 4
    d_k = d_q if kind in ("scaled_dot_product", "dot") else 8
    weights = {}
    if kind == "multi_head":
        shapes = [(BATCH, QUERIES, 13), (BATCH, KEYS, 14), (BATCH, KEYS, 15)]
        weights = {
            "query_weight": (HEADS * 4, 13),
            "key_weight": (KV_HEADS * 4, 14),
            "value_weight": (KV_HEADS * D_V, 15),
            "output_weight": (16, HEADS * D_V),
            "query_bias": (HEADS * 4,),
            "key_bias": (KV_HEADS * 4,),
            "value_bias": (KV_HEADS * D_V,),
            "output_bias": (16,),
        }
    else:
        shapes = [
            (BATCH, HEADS, QUERIES, d_q),
            (BATCH, KV_HEADS, KEYS, d_k),
            (BATCH, KV_HEADS, KEYS, D_V),
        ]
    if kind == "additive":
        weights = {"query_weight": (HIDDEN, d_q), "key_weight": (HIDDEN, d_k)}
        weights |= {"score_vector": (HIDDEN,), "bias": (HIDDEN,)}
    if kind == "general":
        weights = {"weight": (d_q, d_k)}
    if kind == "concat":
        weights = {"weight": (HIDDEN, d_q + d_k), "score_vector": (HIDDEN,)}
    drawn = {
        name: normal(*shape, seed=20 + i, dtype=dtype) / math.sqrt(shape[-1])
        for i, (name, shape) in enumerate(weights.items())
    }
    inputs = {
        name: normal(*shape, seed=i, dtype=dtype) * std
        for i, (name, shape) in enumerate(zip(OPERANDS, shapes, strict=True))
    }
    return Case(kind, options, inputs, drawn)


def loaded_mask() -> tuple[dict[str, Any], Tensor, Tensor]:
    """A mask that leaves rows one key, some and none; its visible pairs (…, N, M) and its bias."""
    allowed = normal(BATCH, 1, QUERIES, KEYS, seed=40) > -0.5
    allowed[0, 0, 1] = False
    allowed[1, 0, 3] = torch.arange(KEYS) == 2
    bias = normal(1, HEADS, QUERIES, KEYS, seed=41, dtype=WIDE)
    bias[0, 2, 4, 5] = -math.inf
    return {"allowed": allowed, "bias": bias}, allowed & (bias != -math.inf), bias


@dataclass
class Found:
    """What the plain formulas give."""

    query: Tensor
    key: Tensor
    value: Tensor
    logits: Tensor
    weights: Tensor
    heads: Tensor
    output: Tensor


def plain(
    case: Case,
    tensors: dict[str, Tensor],
    visible: Tensor | None = None,
    bias: Tensor | None = None,
) -> Found:
    """The mechanism on `tensors`; with graph where they have one."""
    w = {n: t for n, t in tensors.items() if n not in OPERANDS}
    q, k, v = (tensors[n] for n in OPERANDS)
    if case.kind == "multi_head":
        q, k, v = scores.multi_head_operands(q, k, v, w, HEADS, KV_HEADS)
    elif q.dim() != 4:
        q, k, v = (t.view(*[1] * (4 - t.dim()), *t.shape) for t in (q, k, v))
    group = q.shape[1] // k.shape[1]
    spread = k.repeat_interleave(group, 1)
    score = score_of(case.kind, normed(q, case), normed(spread, case), w)
    logits = score * case.scale
    if (cap := case.options.get("softcap")) is not None:
        logits = cap * torch.tanh(logits / cap)
    if bias is not None:
        logits = logits + torch.where(bias == -math.inf, 0.0, bias)
    if visible is not None:
        logits = torch.where(visible, logits, -math.inf)
    weights = weigh(logits, case.options.get("normalizer", "softmax"))
    heads = weights @ v.repeat_interleave(group, 1)
    output = scores.multi_head_output(heads, w) if case.kind == "multi_head" else heads
    return Found(q, k, v, logits, weights, heads, output)


def score_of(kind: str, q: Tensor, k: Tensor, w: dict[str, Tensor]) -> Tensor:
    """Scores (batch, heads, N, M)."""
    if kind == "additive":
        return scores.additive(q, k, **w)
    if kind == "general":
        return scores.general(q, k, **w)
    if kind == "concat":
        return scores.concat(q, k, **w)
    return scores.dot(q, k)


def normed(tensor: Tensor, case: Case) -> Tensor:
    """QK-norm by its definition."""
    kind = case.options.get("qk_norm", "none")
    if kind == "l2":
        return tensor / tensor.square().sum(-1, keepdim=True).sqrt()
    if kind == "rms":
        return tensor / (tensor.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    return tensor


def weigh(logits: Tensor, name: str) -> Tensor:
    """Weights with a graph: where a bisection has none, solved for on the support it finds."""
    reference = getattr(normalizers, name)
    if name not in ("sparsemax", "entmax15"):
        return reference(logits)
    known = reference(logits.detach())
    support = known > 1e-12
    count = support.sum(-1, keepdim=True, dtype=WIDE).clamp(min=1)
    halved = logits / (2 if name == "entmax15" else 1)
    inner = torch.where(support, halved, 0.0)
    mean = inner.sum(-1, keepdim=True) / count
    if name == "sparsemax":
        weights = inner - mean + 1 / count
    else:
        variance = torch.where(support, inner - mean, 0.0).square().sum(-1, keepdim=True) / count
        weights = (inner - mean + ((1 - count * variance) / count).sqrt()).square()
    weights = torch.where(support, weights, 0.0)
    torch.testing.assert_close(weights.detach(), known, rtol=0, atol=1e-9)
    return weights


def rms(tensor: Tensor) -> Tensor:
    """Over the last two axes."""
    return tensor.square().mean((-2, -1)).sqrt()


def upstream_of(seed: int, *shape: int) -> Tensor:
    """The gradient on an output, as the contract says it is drawn."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(2_000_000_000 + seed))
