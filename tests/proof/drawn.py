"""Random requests of everything that may be combined, alone and several with an equal plan."""

import json
import math
import random
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from service.attention.blocks import BLOCK_LOGITS
from service.encodings import JSON, SAFETENSORS
from service.includes import INCLUDES
from service.normalizers import NORMALIZERS
from tests.builders import normal
from tests.files import file_of
from tests.proof.rows import packed

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
SHARED = ["output", "weights", "diagnostics", "row_diagnostics", "logits", "scores", "key_share",
          "sparsity", "jacobian_spectral"]  # fmt: skip
"""What requests that are computed together may include."""
ALONE = ["gradients", "perturbation", "flip_margin", "theory"]
assert {*SHARED, *ALONE} == set(INCLUDES)


@dataclass(frozen=True, slots=True)
class Drawn:
    """One request, and on how many threads it is computed."""

    body: bytes
    encoding: str
    accept: str
    threads: int


@dataclass(frozen=True, slots=True)
class Sizes:
    """Extents that all mechanisms can make something of."""

    batch: int
    kv_heads: int
    group: int
    queries: int
    keys: int
    d_k: int
    d_v: int

    @property
    def heads(self) -> int:
        return self.kv_heads * self.group

    @property
    def operands(self) -> int:
        """Elements of one batch item's query, key and value, at most."""
        return self.heads * (self.queries + 2 * self.keys) * max(self.d_k, self.d_v)


def sizes(draw: random.Random, most: int) -> Sizes:
    """Of at most so many logits."""
    found = [draw.choice([1, 1, 2, 3]), draw.choice([1, 2, 3]), draw.choice([1, 1, 2, 4]),
             draw.choice([1, 7, 60, 300, 1100]), draw.choice([1, 9, 150, 1100, 2100])]  # fmt: skip
    while math.prod(found) > most:
        largest = max(range(5), key=found.__getitem__)
        found[largest] = (found[largest] + 1) // 2
    return Sizes(*found, draw.choice([1, 5, 64, 130]), draw.choice([1, 6, 64, 200]))


def alone(seed: int) -> Drawn:
    """A request to be computed alone; one in ten is larger than a unit of the pass."""
    draw = random.Random(seed)
    of = sizes(draw, 2_000_000 if draw.random() < 0.1 else 150_000)
    mechanism, weights = _mechanism(draw, of)
    inputs, tensors = _inputs(draw, of, mechanism, seed)
    if inputs["kind"] in ("logits", "weights"):
        mechanism, weights = {}, {}
    mask = _mask(draw, of, bias=inputs["kind"] != "weights")
    include = draw.sample([*SHARED, *ALONE], draw.randint(0, len(INCLUDES)))
    document = {
        "mechanism": mechanism,
        "inputs": inputs,
        "include": draw.choice([None, [*map(_optioned, include)], [*map(_optioned, include)]]),
        "compute": {"dtype": draw.choice([None, None, "float16", "bfloat16", "float64"])},
        "tensor_format": draw.choice(["nested", "flat", "base64"]),
    }
    return _sent(draw, document, tensors, weights, mask)


def together(seed: int) -> list[Drawn]:
    """Two to six requests that can be computed as one."""
    draw = random.Random(seed)
    count = draw.randint(2, 6)
    of = sizes(draw, 60_000)
    # A request that fills a unit of the pass by itself is computed alone.
    while 4 * of.operands > BLOCK_LOGITS:
        of = replace(of, queries=(of.queries + 1) // 2, keys=(of.keys + 1) // 2)
    mechanism, _ = _mechanism(draw, of, given=False)
    if isinstance(mechanism.get("scale"), dict):
        del mechanism["scale"]
    include = draw.choice([None, draw.sample(SHARED, draw.randint(0, len(SHARED)))])
    dtype = draw.choice([None, "float16", "float64"])
    causal = draw.choice(["none", "upper_left", "lower_right"])
    padded = draw.random() < 0.4
    threads, accept = draw.choice([1, 2]), draw.choice([JSON, SAFETENSORS])
    found = []
    for number in range(count):
        batch = draw.choice([1, 1, 2, 4])
        one = replace(of, batch=batch)
        mask = {"causal": causal}
        if padded:
            mask["key_lengths"] = [draw.randint(0, of.keys) for _ in range(batch)]
        document = {
            "mechanism": mechanism,
            "inputs": _seeded(one, mechanism, seed + number),
            "mask": mask,
            "include": include,
            "compute": {"dtype": dtype},
            "tensor_format": draw.choice(["nested", "flat", "base64"]),
        }
        found.append(Drawn(json.dumps(document).encode(), JSON, accept, threads))
    return found


def _optioned(name: str) -> Any:
    options = {
        "sparsity": {"threshold": 0.1},
        "gradients": {"seed": 3, "closed_form": False},
        "perturbation": {"relative_noise": 0.1},
    }
    return {"name": name, **options[name]} if name in options and len(name) % 2 else name


def _mechanism(
    draw: random.Random, of: Sizes, *, given: bool = True
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A mechanism with its options, and its learned weights where they are given."""
    kind = draw.choice(["scaled_dot_product", "scaled_dot_product", "additive", "multiplicative",
                        "multi_head"])  # fmt: skip
    found: dict[str, Any] = {"kind": kind, "normalizer": draw.choice(sorted(NORMALIZERS))}
    if draw.random() < 0.4:
        scale = draw.choice([0, 1, -0.1, 3.5, {"kind": "log_length", "base": 64.0}])
        found |= {"scale": scale, "softcap": draw.choice([None, 50])}
    hidden = draw.choice([1, 16, 70])
    weights: dict[str, Tensor] = {}
    if kind == "multiplicative":
        found["score"] = draw.choice(["dot", "general", "concat"])
    if found.get("score", kind) in ("scaled_dot_product", "dot", "multi_head"):
        found["qk_norm"] = draw.choice(["none", "none", "l2", "rms"])
    if kind == "multi_head":
        found |= {"heads": of.heads, "kv_heads": of.kv_heads}
    if kind == "additive" or found.get("score") == "concat":
        found["parameters"] = {"kind": "seeded", "seed": 1, "hidden_dim": hidden}
    if given and draw.random() < 0.4:
        weights = _weights(found.get("score", kind), of, hidden)
    if weights:
        found["parameters"] = {"kind": "given"}
    return found, weights


def _weights(kind: str, of: Sizes, hidden: int) -> dict[str, Tensor]:
    d, model = of.d_k, of.heads * of.d_k
    kv = of.kv_heads * of.d_k
    shapes: dict[str, dict[str, tuple[int, ...]]] = {
        "additive": {"query_weight": (hidden, d), "key_weight": (hidden, d),
                     "score_vector": (hidden,), "bias": (hidden,)},
        "general": {"weight": (d, d)},
        "concat": {"weight": (hidden, 2 * d), "score_vector": (hidden,)},
        "multi_head": {"query_weight": (model, model), "key_weight": (kv, model),
                       "value_weight": (kv, model), "output_weight": (model, model),
                       "output_bias": (model,)},
    }  # fmt: skip
    return {name: normal(*shape, seed=9) for name, shape in shapes.get(kind, {}).items()}


def _seeded(of: Sizes, mechanism: dict[str, Any], seed: int) -> dict[str, Any]:
    lengths = {"query_length": of.queries, "key_length": of.keys}
    found = {"kind": "seeded", "seed": seed, "batch": of.batch, **lengths}
    if mechanism["kind"] == "multi_head":
        return {**found, "model_dim": of.heads * of.d_k}
    heads = {"heads": of.heads, "kv_heads": of.kv_heads, "d_k": of.d_k, "d_v": of.d_v}
    return {**found, **heads}


def _inputs(
    draw: random.Random, of: Sizes, mechanism: dict[str, Any], seed: int
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Seeded, or of a kind whose tensors stand beside it."""
    kind = draw.choice(["seeded", "seeded", "tensors", "tensors", "logits", "weights"])
    if kind == "seeded":
        spread = {"std": draw.choice([1, 1, 30, 1e-30]), "mean": draw.choice([0, 0, 2.5])}
        return {**_seeded(of, mechanism, seed), **spread}, {}
    dtype = draw.choice(DTYPES)
    rows, keys = (of.batch, of.heads, of.queries), (of.batch, of.kv_heads, of.keys)
    if mechanism["kind"] == "multi_head" and kind == "tensors":
        model = of.heads * of.d_k
        rows, keys = (of.batch, of.queries), (of.batch, of.keys)
        shapes = {"query": (*rows, model), "key": (*keys, model), "value": (*keys, model)}
    elif kind == "tensors":
        shapes = {"query": (*rows, of.d_k), "key": (*keys, of.d_k), "value": (*keys, of.d_v)}
    else:
        shapes = {kind: (*rows, of.keys), "value": (of.batch, of.heads, of.keys, of.d_v)}
    tensors = {name: normal(*shape, seed=seed) for name, shape in shapes.items()}
    if kind == "weights":
        tensors["weights"] = tensors["weights"].softmax(-1)
    return {"kind": kind}, {name: tensor.to(dtype) for name, tensor in tensors.items()}


def _mask(draw: random.Random, of: Sizes, *, bias: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"causal": draw.choice(["none", "none", "upper_left", "lower_right"])}
    if found["causal"] == "upper_left":
        found["offset"] = draw.choice([0, 3, of.keys - of.queries])
    if draw.random() < 0.3:
        found["window"] = {"left": draw.randrange(of.keys), "right": draw.randrange(of.keys)}
    drawn = torch.Generator().manual_seed(draw.randrange(2**31))
    if draw.random() < 0.3:
        found["key_lengths"] = torch.randint(0, of.keys + 1, (of.batch,), generator=drawn)
    pairs = (of.queries, of.keys)
    shape = draw.choice([pairs, (1, of.keys), (of.batch, of.heads, *pairs), (1, 1, *pairs)])
    if draw.random() < 0.3:
        found["allowed"] = torch.rand(shape, generator=drawn) > 0.4
    if bias and draw.random() < 0.3:
        hidden = torch.rand(shape, generator=drawn) > 0.9
        found["bias"] = normal(*shape, seed=5).masked_fill(hidden, -math.inf)
        found["forbid_below"] = draw.choice([None, -1.5])
    return found


def _sent(
    draw: random.Random,
    document: dict[str, Any],
    tensors: dict[str, Tensor],
    weights: dict[str, Tensor],
    mask: dict[str, Any],
) -> Drawn:
    """In one of the encodings that can carry it."""
    threads, accept = draw.choice([1, 2]), draw.choice([JSON, SAFETENSORS])
    masks = {name: value for name, value in mask.items() if isinstance(value, Tensor)}
    document["mask"] = {name: value for name, value in mask.items() if name not in masks}
    if draw.random() < 0.5:
        document["mask"] |= {name: _listed(tensor, draw) for name, tensor in masks.items()}
        if tensors:
            given = {name: packed(tensor) for name, tensor in tensors.items()}
            document["inputs"] = {**document["inputs"], **given}
        if weights:
            given = {name: _listed(tensor, draw) for name, tensor in weights.items()}
            document["mechanism"] = {**document["mechanism"], "parameters": given}
        return Drawn(json.dumps(document).encode(), JSON, accept, threads)
    if tensors:
        del document["inputs"]
    if weights:
        kept = {name: v for name, v in document["mechanism"].items() if name != "parameters"}
        document["mechanism"] = kept
    entries = {
        **tensors,
        **{f"mask.{name}": tensor for name, tensor in masks.items()},
        **{f"parameters.{name}": tensor for name, tensor in weights.items()},
    }
    body = file_of(entries, {"request": json.dumps(document)})
    return Drawn(body, SAFETENSORS, accept, threads)


def _listed(tensor: Tensor, draw: random.Random) -> Any:
    """As base64, or in lists that have null for minus infinity."""
    if draw.random() < 0.5 or tensor.numel() > 100_000:
        return packed(tensor)
    if tensor.dtype == torch.float32:
        return _nulled(tensor.tolist())
    return tensor.tolist()


def _nulled(value: Any) -> Any:
    if isinstance(value, list):
        return [_nulled(item) for item in value]
    return None if value == -math.inf else value
