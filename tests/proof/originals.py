"""Valid bodies of every route that reads one: what mutations start from."""

import json
from dataclasses import dataclass
from typing import Any

import torch

from service.api.examples import BY_PATH
from service.encodings import JSON, OCTETS, SAFETENSORS
from tests.builders import normal
from tests.files import file_of
from tests.inference import LENGTH, infer_path, inference

ATTENTION, ESTIMATE = "/v1/attention", "/v1/attention/estimate"
SOFTMAX, SWEEPS, COMPARISONS = "/v1/softmax", "/v1/sweeps", "/v1/comparisons"


@dataclass(frozen=True, slots=True)
class Original:
    """A body, the route it is for, and its encoding.

    `length` is that of the JSON in front of binary tensors.
    """

    path: str
    encoding: str
    body: bytes
    length: int | None = None


EVERYTHING = {
    "mechanism": {
        "kind": "additive",
        "scale": {"kind": "log_length", "base": 512.0},
        "softcap": 30.0,
        "normalizer": "entmax15",
        "qk_norm": "none",
        "parameters": {
            "kind": "given",
            "query_weight": [[1, 2], [3, 4], [5, 6]],
            "key_weight": {"shape": [3, 2], "data": [1, 2, 3, 4, 5, 6]},
            "score_vector": [1, -1, 0.5],
            "bias": {"shape": [3], "dtype": "float64", "data": [0, 1, 2]},
        },
    },
    "inputs": {
        "kind": "tensors",
        "query": [[[0.5, 1], [2, -3], [1, 1]], [[0.5, 1], [2, -3], [1, 1]]],
        "key": {"shape": [2, 1, 2], "dtype": "float32", "data": "AACAPwAAAEAAAIA/AAAAQA=="},
        "value": [[[1, 2, 3]], [[4, 5, 6]]],
    },
    "mask": {
        "causal": "upper_left",
        "offset": [0, 1],
        "window": {"left": 3, "right": 0},
        "key_lengths": [1, 0],
        "allowed": [[True], [False], [True]],
        "bias": [[0.5], [None], [-2]],
        "forbid_below": -10.0,
    },
    "labels": {"query": ["a", "b", "c"], "key": ["猫"]},
    "include": ["output", {"name": "sparsity", "threshold": 0.1}, {"name": "gradients", "seed": 3}],
    "compute": {"device": "cpu", "dtype": "float64", "nonfinite": "propagate"},
    "tensor_format": "base64",
    "ignore_unknown": True,
}
"""Every field of an analysis, most in a form of its own."""
HEADED = {
    "mechanism": {"kind": "multi_head", "heads": 2, "kv_heads": 1, "parameters": {"seed": 4}},
    "inputs": {"kind": "seeded", "seed": 1, "query_length": 3, "key_length": 5, "model_dim": 8,
               "mean": 0.5, "std": 2.0, "self_attention": False},
    "include": None,
}  # fmt: skip
PROJECTED = {
    "mechanism": {"kind": "multiplicative", "score": "concat", "parameters": {"hidden_dim": 3}},
    "inputs": {"kind": "seeded", "batch": 2, "heads": 4, "kv_heads": 2, "query_length": 3,
               "d_q": 5, "d_k": 6, "d_v": 7},
}  # fmt: skip
GIVEN = {
    "inputs": {"kind": "logits", "logits": [[1.5, None, -2], [0, 1, 2]], "value": [[1], [2], [3]]},
    "mask": {"causal": "lower_right"},
}
PERMITTED = {"inputs": {"kind": "weights", "weights": [[0.25, 0.75], [1.0, 0.0]]}}
SOFTENED = {"logits": [[1.0, 2.0], [None, 3.0]], "jacobian": True, "tensor_format": "flat"}
SWEPT = {
    "d_k": [2, 3],
    "scale": ["1/sqrt(d_k)", 0.5],
    "key_length": [3],
    "query_length": 2,
    "repeats": 2,
    "seed": 3,
    "include": ["gradients", "sparsity"],
}
COMPARED = {
    "inputs": {"kind": "seeded", "heads": 2, "query_length": 3, "d_k": 4, "std": 3.0},
    "mask": {"causal": "upper_left", "window": {"left": 2}, "bias": [[0.0, 1.0, None]]},
    "variants": [
        {"label": "a", "mechanism": {"kind": "scaled_dot_product", "scale": 2.0}},
        {"label": "b", "mechanism": {"kind": "additive", "parameters": {"hidden_dim": 3}}},
    ],
    "target": {"saturated_share_max": 0.1},
    "compute": {"dtype": "float64"},
    "ignore_unknown": False,
}
DOCUMENTS: list[tuple[str, dict[str, Any]]] = [
    *((ATTENTION, document) for document in (EVERYTHING, HEADED, PROJECTED, GIVEN, PERMITTED)),
    (SOFTMAX, SOFTENED),
    (SWEEPS, SWEPT),
    (COMPARISONS, COMPARED),
]
WEIGHTS = {
    "parameters.in_proj_weight": normal(18, 6),
    "parameters.in_proj_bias": normal(18),
    "parameters.out_proj.weight": normal(6, 6),
}
FILES: list[tuple[str, bytes]] = [
    (ATTENTION, file_of({"query": normal(2, 3, 4), "key": normal(2, 5, 4).half()},
                        {"request": '{"compute":{"dtype":"float32"},"include":["output"]}'})),
    (ATTENTION, file_of({
        **{f"layer{i}.query": normal(1, 2, 3, 4, seed=i) for i in range(3)},
        "layer1.mask.allowed": torch.ones(3, 3, dtype=torch.bool),
        "mask.bias": torch.zeros(3, 3, dtype=torch.bfloat16),
        "key_lengths": torch.tensor([2], dtype=torch.int32),
        "layer0.output": normal(2),
    }, {"request": '{"ignore_unknown":true,"mask":{"causal":"lower_right"}}'})),
    (ATTENTION, file_of({"query": normal(5, 6), **WEIGHTS},
                        {"request": '{"mechanism":{"kind":"multi_head","heads":3}}'})),
    (ATTENTION, file_of({"logits": normal(3, 4), "value": normal(4, 2)})),
    (SOFTMAX, file_of({"logits": normal(2, 3)}, {"request": '{"jacobian":true}'}, padding=5)),
    (COMPARISONS, file_of(
        {"query": normal(3, 4).double(), "mask.offset": torch.tensor(1)},
        {"request": '{"mask":{"causal":"upper_left"},"variants":[{"label":"a"}]}'})),
]  # fmt: skip
INFERENCES: list[tuple[str, bytes, dict[str, str]]] = [
    ("scaled_dot_product", *inference(
        {"query": normal(2, 3), "key": normal(4, 3), "mask_allowed": torch.ones(2, 4).bool()},
        as_text=["key"], outputs=["output", "entropy"], parameters={"scale": 0.5})),
    ("additive", *inference(
        {"query": normal(1, 2, 3, 4).half(), "query_weight": normal(5, 4).half(),
         "key_weight": normal(5, 4).half(), "score_vector": normal(5).half(),
         "key_lengths": torch.tensor([2], dtype=torch.int32)}, id="7", padding=3)),
    ("multi_head", *inference(
        {"query": normal(3, 8)}, as_text=["query"],
        parameters={"heads": 2, "causal": "lower_right"})),
    ("multiplicative", *inference(
        {}, binary=False, outputs=["lse"],
        parameters={"seed": 3, "score": "general", "query_length": 4, "timeout": 10**6})),
]  # fmt: skip
ORIGINALS = [
    *(
        Original(infer_path(model), OCTETS, body, int(headers.get(LENGTH, len(body))))
        for model, body, headers in INFERENCES
    ),
    *(Original(path, JSON, json.dumps(document).encode()) for path, document in DOCUMENTS),
    *(Original(path, SAFETENSORS, content) for path, content in FILES),
    *(
        Original(path, JSON, json.dumps(example["value"]).encode())
        for path, examples in BY_PATH.items()
        if path.startswith("/v1/")
        for example in examples.values()
    ),
]
