"""Named requests that run as they stand, shown on the docs page and executed by a test."""

import json
from importlib.resources import files
from typing import Any

ATTENTION: dict[str, dict[str, Any]] = {
    "classic": {
        "summary": "The classic: 2 × 8 heads, 10 queries, 12 keys, d_k 64, causal",
        "description": "More keys than queries, so the causal mask is aligned to the lower right: "
        "the last query sees all 12 keys, the first only 3.",
        "value": {
            "inputs": {
                "kind": "seeded",
                "seed": 7,
                "batch": 2,
                "heads": 8,
                "query_length": 10,
                "key_length": 12,
                "d_k": 64,
            },
            "mask": {"causal": "lower_right"},
        },
    },
    "defaults": {
        "summary": "Everything by default",
        "description": "One head of 16 seeded queries on themselves.",
        "value": {},
    },
    "unscaled": {
        "summary": "Why attention divides by sqrt(d_k)",
        "description": "The same draw without the scale: logits of variance d_k = 512, nearly "
        "one-hot rows, no gradient. theory says what independent entries give.",
        "value": {
            "mechanism": {"kind": "scaled_dot_product", "scale": 1},
            "inputs": {"kind": "seeded", "heads": 4, "query_length": 64, "d_k": 512},
            "include": ["diagnostics", "theory"],
        },
    },
    "own_tensors": {
        "summary": "Your own query, key and value",
        "description": "Two queries, three keys, d_k 2: worked out by hand in a minute.",
        "value": {
            "inputs": {
                "kind": "tensors",
                "query": [[1, 0], [0, 2]],
                "key": [[1, 0], [0, 1], [1, 1]],
                "value": [[1, 0], [0, 1], [0.5, 0.5]],
            },
            "include": ["output", "weights", "logits", "scores", "diagnostics", "row_diagnostics"],
        },
    },
    "padded_batch": {
        "summary": "A padded batch with grouped heads and a window",
        "description": "Four query heads share two key heads; the second item has 5 real keys.",
        "value": {
            "inputs": {
                "kind": "seeded",
                "batch": 2,
                "heads": 4,
                "kv_heads": 2,
                "query_length": 8,
                "d_k": 16,
            },
            "mask": {"causal": "upper_left", "window": {"left": 3}, "key_lengths": [8, 5]},
            "include": ["weights", "diagnostics", "key_share"],
        },
    },
    "additive": {
        "summary": "Bahdanau's additive attention, queries and keys of different dimensions",
        "description": "vᵀ tanh(W_q q + W_k k) with seeded weights. tanh_saturated and "
        "tanh_gradient tell whether the hidden units saturate before the softmax does, "
        "score_bound_share how near the scores are to the sum of |v|.",
        "value": {
            "mechanism": {
                "kind": "additive",
                "parameters": {"kind": "seeded", "seed": 1, "hidden_dim": 32},
            },
            "inputs": {"kind": "seeded", "query_length": 6, "key_length": 9, "d_q": 24, "d_k": 16},
            "include": ["output", "weights", "diagnostics"],
        },
    },
    "multiplicative": {
        "summary": "Luong's dot score, unscaled as in the paper",
        "description": "The advice says what 1/sqrt(d_k) would change. general and concat take "
        "weights, given or seeded.",
        "value": {
            "mechanism": {"kind": "multiplicative", "score": "dot"},
            "inputs": {"kind": "seeded", "query_length": 12, "d_k": 64},
            "include": ["diagnostics"],
        },
    },
    "multi_head": {
        "summary": "Multi-head attention on inputs of the model's dimension",
        "description": "Eight query heads share two key/value heads; every head is diagnosed "
        "before the heads are joined. torch.nn.MultiheadAttention's state dict posted as "
        "parameters.* in a safetensors file is the same with your weights.",
        "value": {
            "mechanism": {"kind": "multi_head", "heads": 8, "kv_heads": 2, "qk_norm": "rms"},
            "inputs": {"kind": "seeded", "batch": 2, "query_length": 10, "model_dim": 64},
            "mask": {"causal": "upper_left"},
            "include": ["output", "diagnostics"],
        },
    },
    "sparse_weights": {
        "summary": "Sparsemax in place of softmax",
        "description": "Weights that are exactly 0: support_size counts the others. Also "
        "softmax_one (with null_mass), entmax15 and sigmoid.",
        "value": {
            "mechanism": {"kind": "scaled_dot_product", "normalizer": "sparsemax"},
            "inputs": {"kind": "seeded", "query_length": 6, "key_length": 10, "d_k": 16},
            "include": ["weights", "diagnostics", "row_diagnostics"],
        },
    },
    "harms": {
        "summary": "What saturation costs: gradient, sparse weights, sensitivity",
        "description": "Without the scale little gradient reaches the query, most weights are "
        "nearly 0, and small changes of query and key move the weights far. The evidence "
        "gathers the three; flip_margin says how far each query is from preferring another key.",
        "value": {
            "mechanism": {"kind": "scaled_dot_product", "scale": 1},
            "inputs": {"kind": "seeded", "heads": 2, "query_length": 32, "d_k": 256},
            "include": [
                "diagnostics",
                "sparsity",
                "flip_margin",
                {"name": "gradients", "seed": 0},
                {"name": "perturbation", "relative_noise": 0.01},
            ],
        },
    },
    "given_logits": {
        "summary": "Logits that a framework computed",
        "description": "null is minus infinity. Only what follows from logits is defined.",
        "value": {
            "inputs": {"kind": "logits", "logits": [[2.0, 1.0, None], [30.0, 0.0, -5.0]]},
            "include": ["weights", "diagnostics", "row_diagnostics", "jacobian_spectral"],
        },
    },
    "given_weights": {
        "summary": "Weights that a framework returned",
        "description": "What output_attentions gives; the first row is nearly one-hot.",
        "value": {
            "inputs": {"kind": "weights", "weights": [[0.98, 0.01, 0.01], [0.4, 0.3, 0.3]]},
        },
    },
    "base64": {
        "summary": "Compact tensors",
        "description": "Little-endian bytes in base64, in and out.",
        "value": {
            "inputs": {
                "kind": "tensors",
                "query": {
                    "shape": [2, 2],
                    "dtype": "float32",
                    "data": "AACAPwAAAAAAAAAAAAAAQA==",
                },
            },
            "tensor_format": "base64",
        },
    },
}


ESTIMATES: dict[str, dict[str, Any]] = {
    "terabytes": {
        "summary": "Sixty bytes that ask for terabytes",
        "description": "Not admitted: the weights alone would be 4 TiB. Nothing is allocated.",
        "value": {
            "inputs": {"kind": "seeded", "query_length": 2**20},
            "include": ["weights"],
        },
    },
    "streamed": {
        "summary": "The same without the weights, a little shorter",
        "description": "32,768 queries on 32,768 keys: some 100 MiB, half a tera-operation.",
        "value": {
            "inputs": {"kind": "seeded", "query_length": 2**15},
            "include": ["output", "diagnostics"],
        },
    },
}

SOFTMAX: dict[str, dict[str, Any]] = {
    "three_rows": {
        "summary": "Even, sharp and saturated",
        "description": "The same order of keys, ten times and a hundred times as far apart: the "
        "Jacobian's trace falls from 0.66 to 0.",
        "value": {
            "logits": [[0.3, 0.2, 0.1], [3, 2, 1], [30, 20, 10]],
            "jacobian": True,
        },
    },
    "hidden_key": {
        "summary": "One row, one key hidden",
        "description": "null is minus infinity: no weight, no gradient, in no figure.",
        "value": {"logits": [2.0, 1.0, None, 0.5], "jacobian": True},
    },
}

SWEEPS: dict[str, dict[str, Any]] = {
    "classic": {
        "summary": "Why attention divides by sqrt(d_k): the classic table",
        "description": "d_k from 1 to 4096, with and without the scale: 128 keys, 64 queries, 8 "
        "repeats. For the picture choose image/png or image/svg+xml below.",
        "value": {},
    },
    "longer": {
        "summary": "The same dimension, more and more keys",
        "description": "At d_k 64 and the usual scale a row stays diffuse however many keys "
        "compete.",
        "value": {
            "d_k": [64],
            "key_length": [2, 8, 32, 128, 512, 2048],
            "query_length": 16,
            "repeats": 4,
        },
    },
    "quick": {
        "summary": "Three dimensions, a scale of your own",
        "description": "Numbers are scales too; 1/d_k is that of maximal update parametrisation "
        "(arXiv 2203.03466).",
        "value": {"d_k": [16, 64, 256], "scale": ["1/d_k", 0.5], "repeats": 2, "include": []},
    },
}

COMPARISONS: dict[str, dict[str, Any]] = {
    "unscaled": {
        "summary": "Scaled against unscaled, and what mends the unscaled",
        "description": "The baseline is the first variant; the recommendation is for it: the "
        "mildest temperature, softcap and QK-clip that leave every head at most 10 % saturated "
        "rows.",
        "value": {
            "inputs": {"kind": "seeded", "heads": 4, "query_length": 32, "d_k": 128},
            "variants": [
                {"label": "unscaled", "mechanism": {"kind": "scaled_dot_product", "scale": 1}},
                {"label": "scaled"},
                {
                    "label": "unscaled, softcap 5",
                    "mechanism": {"kind": "scaled_dot_product", "scale": 1, "softcap": 5},
                },
                {
                    "label": "QK-norm",
                    "mechanism": {"kind": "scaled_dot_product", "qk_norm": "rms"},
                },
            ],
            "target": {"saturated_share_max": 0.1},
        },
    },
    "normalizers": {
        "summary": "Normalisers and mechanisms on the same inputs",
        "description": "Entropies and max weights beside one another, and how far the output moves "
        "from that of softmax.",
        "value": {
            "inputs": {"kind": "seeded", "heads": 2, "query_length": 16, "d_k": 32},
            "mask": {"causal": "upper_left"},
            "variants": [
                {"label": "softmax"},
                {
                    "label": "sparsemax",
                    "mechanism": {"kind": "scaled_dot_product", "normalizer": "sparsemax"},
                },
                {
                    "label": "log length",
                    "mechanism": {
                        "kind": "scaled_dot_product",
                        "scale": {"kind": "log_length", "base": 16},
                    },
                },
                {"label": "additive", "mechanism": {"kind": "additive"}},
            ],
        },
    },
}

INFERENCES: dict[str, dict[str, Any]] = {
    "own_tensors": {
        "summary": "Query, key and value as JSON",
        "description": "The output, the weights, and how concentrated each row is; of rank 2, so "
        "that the output has no axes for batch and head.",
        "value": {
            "id": "42",
            "inputs": [
                {"name": "query", "shape": [2, 2], "datatype": "FP32", "data": [1, 0, 0, 2]},
                {
                    "name": "key",
                    "shape": [3, 2],
                    "datatype": "FP32",
                    "data": [[1, 0], [0, 1], [1, 1]],
                },
            ],
            "outputs": [{"name": "output"}, {"name": "weights"}, {"name": "entropy"}],
        },
    },
    "seeded": {
        "summary": "Tensors drawn from a seed",
        "description": "As POST /v1/attention draws them: batch, heads, query_length, key_length, "
        "d_k, … are parameters too. Without the scale of 1/sqrt(d_k) the rows are nearly one-hot.",
        "value": {
            "parameters": {"seed": 7, "heads": 2, "query_length": 4, "d_k": 256, "scale": 1.0},
            "outputs": [{"name": "max_weight"}, {"name": "lse"}],
        },
    },
    "masked": {
        "summary": "A causal mask and padding",
        "description": "Masks are parameters where one word or number says it, else inputs.",
        "value": {
            "parameters": {"seed": 1, "batch": 2, "query_length": 3, "causal": "lower_right"},
            "inputs": [
                {"name": "key_lengths", "shape": [2], "datatype": "INT64", "data": [3, 2]},
            ],
            "outputs": [{"name": "weights"}, {"name": "visible_keys"}],
        },
    },
}

REPOSITORY_INDEX: dict[str, dict[str, Any]] = {
    "all": {"summary": "All models", "description": "An empty body is the same.", "value": {}},
    "ready": {
        "summary": "Those that take work",
        "description": "None while the service starts or stops.",
        "value": {"ready": True},
    },
}

_INFER = "/v2/models/{model}"
BY_PATH = {
    "/v1/attention": ATTENTION,
    "/v1/attention/estimate": ESTIMATES,
    "/v1/softmax": SOFTMAX,
    "/v1/sweeps": SWEEPS,
    "/v1/comparisons": COMPARISONS,
    f"{_INFER}/infer": INFERENCES,
    f"{_INFER}/versions/{{version}}/infer": INFERENCES,
    "/v2/repository/index": REPOSITORY_INDEX,
}
"""The examples of every operation with a body."""


def attention_answers() -> dict[str, dict[str, Any]]:
    """Answers to some of the examples, as the service gave them."""
    text = files("service.api").joinpath("example_answers.json").read_text(encoding="utf-8")
    return {
        name: {"summary": ATTENTION[name]["summary"], "value": answer}
        for name, answer in json.loads(text).items()
    }
