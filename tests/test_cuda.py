"""The same analysis on a GPU, where there is one."""

import pytest
import torch

from schemas.attention import AttentionRequest
from service.analysis import analyse
from service.attention.workers import Workers
from service.engine.devices import gpu_memory
from service.mechanisms import MECHANISMS
from service.normalizers import NORMALIZERS
from service.plan import plan
from service.runtime import Runtime

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")

REQUESTS = {
    "plain": {},
    "masked": {"mask": {"causal": "lower_right", "window": {"left": 5}}},
    "softcap": {"mechanism": {"kind": "scaled_dot_product", "softcap": 3.0}},
    "float64": {"compute": {"dtype": "float64"}},
}


@pytest.mark.parametrize("options", REQUESTS.values(), ids=REQUESTS.keys())
def test_cuda_agrees_with_the_cpu(options: dict[str, object]) -> None:
    """Output and every diagnostic agree within 1e-4 relative."""
    inputs = {"kind": "seeded", "batch": 2, "heads": 6, "kv_heads": 3, "query_length": 37}
    compare({"inputs": inputs, **options, "include": ["output", "diagnostics", "key_share"]})


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("kind", MECHANISMS)
def test_the_family_agrees_with_the_cpu(kind: str, normalizer: str) -> None:
    """So do all mechanisms and normalisers, and the figures of the second passes."""
    compare(
        {
            "mechanism": {"kind": kind, "normalizer": normalizer},
            "inputs": {"kind": "seeded", "batch": 2, "query_length": 19, "key_length": 23},
            "mask": {"causal": "lower_right"},
            "include": ["output", "diagnostics", "flip_margin", "perturbation"],
            "compute": {"dtype": "float64"},
        }
    )


def compare(request: dict[str, object]) -> None:
    planned = plan(AttentionRequest.model_validate(request))
    there, here = (
        analyse(planned, Runtime(torch.device(name), Workers(1))) for name in ("cuda", "cpu")
    )
    for name, expected in here.tensors.items():
        torch.testing.assert_close(there.tensors[name], expected, rtol=1e-4, atol=1e-5)
    for name, expected in here.rows.items():
        torch.testing.assert_close(
            there.rows[name], expected, rtol=1e-4, atol=1e-5, equal_nan=True, msg=name
        )


def test_the_memory_of_a_gpu_in_use_is_told() -> None:
    """What torch's allocator holds on a device is read, by device and state."""
    kept = torch.ones(2**20, device="cuda:0")
    memory = gpu_memory()
    assert memory["cuda:0", "reserved"] >= memory["cuda:0", "allocated"] >= kept.nbytes
