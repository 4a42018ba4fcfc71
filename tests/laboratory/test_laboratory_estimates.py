"""What the laboratory's requests hold at most, and how long their answers are: never more than
estimated before they are let in.
"""  # noqa: D205

import json

import orjson
import pytest
import torch

from schemas.comparisons import ComparisonRequest
from schemas.softmax import SoftmaxRequest
from schemas.sweeps import SweepRequest
from service import estimate as module
from service.attention.workers import Workers
from service.laboratory import bench
from service.laboratory.comparisons import prepare_comparison, run_comparison
from service.laboratory.recommendation import MOST_PASSES
from service.laboratory.softmax import prepare_softmax, run_softmax
from service.laboratory.sweeps import prepare_sweep, run_point
from service.runtime import Runtime
from service.wire import json_answer, safetensors_answer
from service.wire.answers import Answer
from tests.builders import CPU, normal
from tests.memory import peak_of

RUNTIME = Runtime(CPU, Workers(1))


@pytest.fixture(autouse=True)
def little_slack(monkeypatch):
    """Compare without the fixed allowance, which would hide small errors."""
    monkeypatch.setattr(module, "_FIXED_BYTES", 2**17)


@pytest.mark.parametrize("jacobian", [False, True])
@pytest.mark.parametrize("shape", [(7,), (3, 256), (2, 3, 20, 100), (4000, 11)], ids=str)
def test_softmax(shape, jacobian):
    """Matrices of each row are the largest part by far."""
    request = SoftmaxRequest(logits=normal(*shape), jacobian=jacobian)
    job = prepare_softmax(request, threads=1, json=True)
    most, _, part = peak_of(lambda: run_softmax(job, RUNTIME))
    assert most <= job.estimate.working_bytes
    assert len(json_answer.encode(Answer([part], {}), "nested")) <= job.estimate.answer_bytes


SWEEPS = [
    {},
    {"d_k": [1], "key_length": [3000], "query_length": 40},
    {"d_k": [512], "key_length": [64], "query_length": 500, "include": ["flip_margin"]},
    {"d_k": [64], "include": ["gradients", "perturbation", "sparsity", "jacobian_spectral"]},
]


@pytest.mark.parametrize("document", SWEEPS, ids=json.dumps)
def test_sweeps(document):
    """The largest point on one thread."""
    sweep = prepare_sweep(SweepRequest(**{**document, "repeats": 2}), threads=1)
    most, _, rows = peak_of(lambda: [run_point(point, RUNTIME) for point in sweep.points])
    # Tables of the theory are kept between requests: 8 KiB for each of 1024 σ.
    assert most <= sweep.estimate.working_bytes + 2**23
    assert len(orjson.dumps(rows)) <= sweep.estimate.answer_bytes


INPUTS = {"kind": "seeded", "batch": 2, "heads": 4, "kv_heads": 2, "query_length": 60, "d_k": 32}
COMPARISONS = {
    "baseline alone": {"inputs": INPUTS, "variants": [{"label": "a"}]},
    "default": {"inputs": INPUTS},
    "searched": {
        "inputs": {**INPUTS, "std": 2.0},
        "target": {"saturated_share_max": 0.01},
    },
    "long": {
        "inputs": {**INPUTS, "query_length": 700, "key_length": 900, "heads": 2},
        "target": {"normalized_entropy_min": 0.9},
        "variants": [
            {"label": "a", "mechanism": {"scale": 1.0}},
            {"label": "b", "mechanism": {"scale": {"kind": "log_length", "base": 64.0}}},
            {"label": "c", "mechanism": {"normalizer": "entmax15"}},
        ],
    },
    "wide output": {
        "inputs": {**INPUTS, "query_length": 2000, "key_length": 4, "d_k": 2, "d_v": 400},
        "variants": [{"label": "a"}],
    },
    "wide output, searched": {
        "inputs": {"kind": "seeded", "query_length": 1500, "key_length": 4, "d_k": 2, "d_v": 900},
        "variants": [{"label": "a", "mechanism": {"scale": 9.0}}],
        "target": {"saturated_share_max": 0.01},
    },
    "many variants": {
        "inputs": {**INPUTS, "query_length": 5, "heads": 64, "kv_heads": 64},
        "variants": [{"label": f"{'é' * 60}{n}"} for n in range(10, 26)],
        "target": {"normalized_entropy_min": 0.99},
    },
    "additive": {
        "inputs": INPUTS,
        "variants": [{"label": "a", "mechanism": {"kind": "additive", "scale": 9.0}}],
        "target": {"normalized_entropy_min": 0.9},
    },
}


@pytest.mark.parametrize("document", COMPARISONS.values(), ids=COMPARISONS)
def test_comparisons(document):
    """All variants, and the search."""
    comparison = prepare_comparison(ComparisonRequest(**document), threads=1)
    most, _, found = peak_of(lambda: run_comparison(None, comparison, RUNTIME))
    assert most <= comparison.estimate.working_bytes
    assert (
        len(json_answer.encode_documents(Answer([found], {}))) <= comparison.estimate.answer_bytes
    )


def test_comparisons_with_their_tensors():
    """Output and every row's figures of each variant are kept until they are written."""
    document = {"inputs": {**INPUTS, "query_length": 3000, "key_length": 3, "d_k": 2}}
    request = ComparisonRequest(**document)
    comparison = prepare_comparison(request, threads=1, tensors=True)
    most, _, found = peak_of(lambda: run_comparison(None, comparison, RUNTIME))
    assert most <= comparison.estimate.working_bytes
    written = bytes(safetensors_answer.encode(Answer([found], {})))
    assert len(written) <= comparison.estimate.answer_bytes
    assert len(written) > 3000 * 4 * 2 * 2 * 20 * 4


def counted(way, passes, *args, **options):
    passes.append(1)
    return way(*args, **options)


def test_the_operations_of_a_search_are_those_of_its_passes(monkeypatch):
    """No search takes more passes over the scores than it is charged for."""
    passes, attend = [], bench.attend
    monkeypatch.setattr(bench, "attend", lambda *a, **k: passes.append(1) or attend(*a, **k))
    for target in ({"saturated_share_max": 0.05}, {"normalized_entropy_min": 0.97}):
        for mask, std in (({}, 2.0), ({"bias": torch.eye(60) * 50}, 2.0), ({}, 1e15)):
            passes.clear()
            request = ComparisonRequest.model_validate(
                {
                    "inputs": {**INPUTS, "std": min(std, 1e6)},
                    "mask": mask,
                    "target": target,
                    "variants": [{"label": "a"}],
                }
            )
            run_comparison(None, prepare_comparison(request, threads=1), RUNTIME)
            assert 40 < len(passes) <= MOST_PASSES
