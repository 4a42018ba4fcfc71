"""What /v2 answers is what /v1/attention answers, byte for byte."""

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from safetensors.torch import load
from torch import Tensor

from service.mechanisms import MECHANISMS
from service.wire.open_inference_models import MODELS
from tests.builders import normal, same_bytes
from tests.files import file_of
from tests.inference import asked, inference

pytestmark = pytest.mark.anyio

MATRICES = ("output", "weights", "logits", "scores")
SAFETENSORS = "application/x-safetensors"
NAMES = {"mask_allowed": "mask.allowed", "mask_bias": "mask.bias", "offset": "mask.offset"}


@dataclass(frozen=True)
class Case:
    """The same analysis in both ways: tensors, flat parameters, and a request."""

    model: str
    tensors: dict[str, Tensor]
    parameters: dict[str, Any] = field(default_factory=dict)
    request: dict[str, Any] = field(default_factory=dict)

    def file(self) -> bytes:
        """For /v1/attention."""
        operands = ("query", "key", "value", "key_lengths")
        named = {
            n if n in operands else NAMES.get(n, f"parameters.{n}"): t
            for n, t in self.tensors.items()
        }
        mechanism = {"kind": self.model, **self.request.get("mechanism", {})}
        included = [*MATRICES, "row_diagnostics", "sparsity", "jacobian_spectral", "flip_margin",
                    "perturbation"]  # fmt: skip
        request = {**self.request, "mechanism": mechanism, "include": included}
        return file_of(named, {"request": json.dumps(request)})


def operands(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    return {
        "query": normal(2, 6, 5, 11, seed=1, dtype=dtype),
        "key": normal(2, 3, 7, 11, seed=2, dtype=dtype),
        "value": normal(2, 3, 7, 13, seed=3, dtype=dtype),
    }


ALLOWED = normal(2, 1, 5, 7, seed=4) > -1
BIAS = torch.where(normal(5, 7, seed=5) > 1.5, float("-inf"), normal(5, 7, seed=6))
CASES = {
    "plain": Case("scaled_dot_product", operands()),
    "self": Case("scaled_dot_product", {"query": normal(4, 8)}),
    "masked": Case(
        "scaled_dot_product",
        {
            **operands(),
            "mask_allowed": ALLOWED,
            "mask_bias": BIAS,
            "key_lengths": torch.tensor([7, 4], dtype=torch.int32),
        },
        {"causal": "lower_right", "window_left": 4, "softcap": 20.0, "scale": 0.5},
        {
            "mask": {"causal": "lower_right", "window": {"left": 4}},
            "mechanism": {"softcap": 20.0, "scale": 0.5},
        },
    ),
    "offset": Case(
        "scaled_dot_product",
        {**operands(), "offset": torch.tensor([1, -2])},
        {"causal": "upper_left", "window_right": 0},
        {"mask": {"causal": "upper_left", "window": {"right": 0}}},
    ),
    "one offset": Case(
        "scaled_dot_product",
        operands(),
        {"causal": "upper_left", "offset": 3},
        {"mask": {"causal": "upper_left", "offset": 3}},
    ),
    "finite minimum": Case(
        "scaled_dot_product",
        {**operands(), "mask_bias": BIAS.clamp(min=-3e4)},
        {"forbid_below": -1e4},
        {"mask": {"forbid_below": -1e4}},
    ),
    "sparse": Case(
        "scaled_dot_product",
        operands(),
        {"normalizer": "sparsemax", "qk_norm": "rms"},
        {"mechanism": {"normalizer": "sparsemax", "qk_norm": "rms"}},
    ),
    "null key": Case(
        "scaled_dot_product",
        operands(torch.float64),
        {"normalizer": "softmax_one"},
        {"mechanism": {"normalizer": "softmax_one"}},
    ),
    "double": Case("scaled_dot_product", operands(torch.float64)),
    "half": Case("scaled_dot_product", operands(torch.float16)),
    "bfloat16": Case("scaled_dot_product", operands(torch.bfloat16)),
    "cast": Case(
        "scaled_dot_product",
        {**operands(), "value": normal(2, 3, 7, 13, dtype=torch.float16)},
        {"dtype": "float64", "device": "cpu"},
        {"compute": {"dtype": "float64", "device": "cpu"}},
    ),
    "not finite": Case(
        "scaled_dot_product",
        {"query": torch.tensor([[1.0, float("nan")], [0.5, 2.0]])},
        {"nonfinite": "propagate"},
        {"compute": {"nonfinite": "propagate"}},
    ),
    "additive": Case(
        "additive",
        {
            "query": normal(2, 5, 9, seed=1),
            "key": normal(2, 7, 11, seed=2),
            "query_weight": normal(17, 9, seed=3),
            "key_weight": normal(17, 11, seed=4),
            "score_vector": normal(17, seed=5),
            "bias": normal(17, seed=6),
            "key_lengths": torch.tensor([7, 0]),
        },
    ),
    "additive, seeded": Case(
        "additive",
        operands(),
        {"parameters_seed": 3, "hidden_dim": 19, "causal": "upper_left"},
        {
            "mechanism": {"parameters": {"kind": "seeded", "seed": 3, "hidden_dim": 19}},
            "mask": {"causal": "upper_left"},
        },
    ),
    "dot": Case("multiplicative", operands()),
    "general": Case(
        "multiplicative",
        {**operands(), "query": normal(2, 6, 5, 9), "weight": normal(9, 11, dtype=torch.float64)},
        {"score": "general"},
        {"mechanism": {"score": "general"}},
    ),
    "concat": Case(
        "multiplicative",
        {**operands(), "weight": normal(17, 22), "score_vector": normal(17)},
        {"score": "concat"},
        {"mechanism": {"score": "concat"}},
    ),
    "multi_head": Case(
        "multi_head",
        {
            "query": normal(2, 5, 12, seed=1),
            "key": normal(2, 7, 10, seed=2),
            "value": normal(2, 7, 14, seed=3),
            "query_weight": normal(24, 12, seed=4),
            "key_weight": normal(12, 10, seed=5),
            "value_weight": normal(16, 14, seed=6),
            "output_weight": normal(15, 32, seed=7),
            "output_bias": normal(15, seed=8),
        },
        {"heads": 4, "kv_heads": 2, "causal": "lower_right"},
        {"mechanism": {"heads": 4, "kv_heads": 2}, "mask": {"causal": "lower_right"}},
    ),
    "torch's names": Case(
        "multi_head",
        {
            "query": normal(5, 12, seed=1),
            "in_proj_weight": normal(36, 12, seed=2),
            "in_proj_bias": normal(36, seed=3),
            "out_proj.weight": normal(12, 12, seed=4),
            "out_proj.bias": normal(12, seed=5),
        },
        {"heads": 3},
        {"mechanism": {"heads": 3}},
    ),
}


async def analysed(client, case):
    """The answer of /v1/attention, as tensors."""
    headers = {"content-type": SAFETENSORS, "accept": SAFETENSORS}
    answer = await client.post("/v1/attention", content=case.file(), headers=headers)
    assert answer.status_code == 200, answer.text[:500]
    return load(answer.content)


@pytest.mark.parametrize("name", CASES)
async def test_every_output_is_that_of_v1(client, name):
    """All outputs at once: matrices with the same bytes, figures the same in FP32 or all NaN."""
    case = CASES[name]
    outputs = MODELS[case.model].outputs
    body, headers = inference(case.tensors, outputs=outputs, parameters=case.parameters)
    found = await asked(client, case.model, body, headers)
    expected = await analysed(client, case)
    assert list(found) == list(outputs)
    for output in MATRICES:
        assert same_bytes(found[output], expected[output]), output
    rows = expected["diagnostics.entropy"].shape
    for figure in set(outputs) - set(MATRICES):
        left_out = torch.full(rows, float("nan"))
        if figure == "row_sum":  # softmax answers leave out what is 1 wherever a key is seen
            left_out = torch.where(expected["diagnostics.max_weight"].isnan(), left_out, 1.0)
        stored = expected.get(f"diagnostics.{figure}", left_out).to(torch.float32)
        assert same_bytes(found[figure], stored), figure


@pytest.mark.parametrize("name", CASES)
async def test_the_output_alone_is_that_of_v1(client, name):
    """Without outputs there is one, of the same bytes as beside all others."""
    case = CASES[name]
    body, headers = inference(case.tensors, parameters=dict(case.parameters))
    found = await asked(client, case.model, body, headers)
    assert list(found) == ["output"]
    assert same_bytes(found["output"], (await analysed(client, case))["output"])


def test_every_model_is_compared():
    """A new mechanism that stands in no case is named here, and so is an unused datatype."""
    assert {case.model for case in CASES.values()} == set(MECHANISMS)
    seen = {t.dtype for case in CASES.values() for t in case.tensors.values()}
    assert len(seen) == 7


def test_every_input_is_given_somewhere():
    """Each tensor of each model's metadata is in a case, but for torch's names of single parts."""
    parts = {"q_proj_weight", "k_proj_weight", "v_proj_weight", "query_bias", "key_bias",
             "value_bias"}  # fmt: skip
    given = {name for case in CASES.values() for name in case.tensors}
    assert {name for model in MODELS.values() for name in model.inputs} - given == parts


SEEDED = [
    ("scaled_dot_product", {"seed": 7, "batch": 2, "heads": 4, "kv_heads": 2, "query_length": 5,
                            "key_length": 6, "d_q": 8, "d_k": 8, "d_v": 3, "mean": 0.5, "std": 2},
     {}),
    ("scaled_dot_product", {"seed": 0, "self_attention": True}, {}),
    ("additive", {"seed": 1, "query_length": 3, "d_q": 5}, {"parameters_seed": 2}),
    ("multi_head", {"seed": 1, "model_dim": 24, "query_length": 3}, {"heads": 3, "kv_heads": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("model", "inputs", "options"), SEEDED)
async def test_seeded_inputs_are_those_of_v1(client, model, inputs, options):
    """Without tensors the seed draws them; what shapes them is flat beside it."""
    body, headers = inference({}, parameters={**inputs, **options, "binary_data_output": True})
    found = await asked(client, model, body, headers)
    mechanism = {"kind": model, **{n: v for n, v in options.items() if n != "parameters_seed"}}
    if "parameters_seed" in options:
        mechanism["parameters"] = {"kind": "seeded", "seed": options["parameters_seed"]}
    request = {
        "inputs": {"kind": "seeded", **inputs},
        "mechanism": mechanism,
        "include": ["output"],
    }
    answer = await client.post("/v1/attention", json=request, headers={"accept": SAFETENSORS})
    assert same_bytes(found["output"], load(answer.content)["output"])


async def test_masks_go_with_a_seed(client):
    """Masks and learned weights may be tensors where the operands are drawn."""
    tensors = {"key_lengths": torch.tensor([2, 5]), "weight": torch.eye(4)}
    parameters = {"seed": 1, "batch": 2, "query_length": 5, "d_k": 4, "score": "general"}
    body, headers = inference(tensors, outputs=["visible_keys"], parameters=parameters)
    found = await asked(client, "multiplicative", body, headers)
    assert found["visible_keys"].tolist() == [[[2.0] * 5], [[5.0] * 5]]
