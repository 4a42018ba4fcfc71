import json
import tracemalloc

import pytest

from schemas.attention import AttentionRequest
from service import estimate as module
from service.encodings import SAFETENSORS
from service.errors import LimitExceeded
from service.estimate import estimate, needs
from service.job import write
from service.limits import check
from service.mechanisms import MECHANISMS
from service.normalizers import NORMALIZERS
from service.plan import plan
from service.settings import Settings
from tests.passes import set_blocks
from tests.test_estimate import COMMON, job_of, measured

HARMS = ["gradients", "perturbation", "flip_margin"]
SEEDED = {"kind": "seeded", "batch": 2, "query_length": 50, "key_length": 120}
PAIRS = {**SEEDED, "heads": 4, "kv_heads": 2, "d_k": 24, "d_v": 40}
MODEL = {**SEEDED, "model_dim": 96}
VARIANTS = {
    "scaled_dot_product": ({}, PAIRS),
    "normed": ({"kind": "scaled_dot_product", "qk_norm": "rms"}, PAIRS),
    "additive": ({"parameters": {"hidden_dim": 70}}, PAIRS),
    "dot": ({"kind": "multiplicative"}, PAIRS),
    "general": ({"kind": "multiplicative", "score": "general"}, {**PAIRS, "d_q": 33}),
    "concat": ({"kind": "multiplicative", "score": "concat"}, {**PAIRS, "d_q": 33}),
    "multi_head": ({"heads": 6, "kv_heads": 3}, MODEL),
}


@pytest.fixture
def little_slack(monkeypatch):
    """Compare without the fixed allowance, which hides small errors."""
    monkeypatch.setattr(module, "_FIXED_BYTES", 2**17)


def document(variant, include, **options):
    own, inputs = VARIANTS[variant]
    mechanism = {"kind": variant, **own, **options}
    return {"mechanism": mechanism, "inputs": inputs, "include": include}


def test_every_mechanism_is_estimated_here():
    """No member of the room is left out of these tests."""
    assert {own.get("kind", name) for name, (own, _) in VARIANTS.items()} == set(MECHANISMS)


@pytest.mark.parametrize("include", HARMS)
@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("variant", sorted(VARIANTS.keys() - {"normed"}))
def test_no_member_needs_more_than_estimated(little_slack, variant, normalizer, include):
    """Memory and answer stay within the estimate, which is no idle guess."""
    content = json.dumps(document(variant, [include], normalizer=normalizer)).encode()
    job = job_of(content)
    peak, analyses = measured(job)
    assert peak <= job.estimate.peak_bytes <= 30 * peak
    assert len(write(job, analyses, COMMON)) <= job.estimate.answer_bytes


@pytest.mark.parametrize("dtype", ["float16", "float64"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_all_harms_at_once_are_estimated(little_slack, variant, dtype):
    """Whatever is included together, in another dtype and in binary, stays within."""
    include = [*HARMS, "sparsity", "key_share", "row_diagnostics", "diagnostics", "output"]
    request = {**document(variant, include), "compute": {"dtype": dtype}}
    job = job_of(json.dumps(request).encode(), accept=SAFETENSORS)
    peak, analyses = measured(job)
    assert peak <= job.estimate.peak_bytes
    assert len(write(job, analyses, COMMON)) <= job.estimate.answer_bytes


WIDE = {
    "additive": ({"parameters": {"hidden_dim": 30_000}}, {"query_length": 3, "d_k": 9}),
    "general": ({"score": "general"}, {"query_length": 3, "d_k": 700, "d_q": 600}),
    "concat": ({"score": "concat", "parameters": {"hidden_dim": 9000}}, {"d_k": 20}),
    "multi_head": ({"heads": 5}, {"query_length": 3, "key_length": 4, "model_dim": 600}),
}


@pytest.mark.parametrize("include", [["diagnostics"], ["gradients", "perturbation"]], ids=str)
@pytest.mark.parametrize("variant", WIDE)
def test_large_weights_of_small_inputs_are_estimated(little_slack, variant, include):
    """Learned weights, their copies and their gradients are counted where they are the most."""
    own, shape = WIDE[variant]
    kind = variant if variant in MECHANISMS else "multiplicative"
    request = {
        "mechanism": {"kind": kind, **own},
        "inputs": {"kind": "seeded", **shape},
        "include": include,
    }
    job = job_of(json.dumps(request).encode())
    peak, _ = measured(job)
    assert peak <= job.estimate.peak_bytes <= 20 * peak


@pytest.mark.parametrize("include", HARMS)
def test_harms_take_no_memory_of_the_size_of_the_weights(include, monkeypatch):
    """2048 queries on 2048 keys hold far less than one matrix of them: a few blocks of rows."""
    set_blocks(monkeypatch, logits=2**15)
    inputs = {"kind": "seeded", "query_length": 2048, "key_length": 2048, "d_k": 16}
    peak, _ = measured(job_of(json.dumps({"inputs": inputs, "include": [include]}).encode()))
    assert peak < 2048 * 2048 * 4 / 2


HUGE = {
    "hidden_dim": ({"kind": "additive", "parameters": {"hidden_dim": 2**40}}, {}),
    "concat's": (
        {"kind": "multiplicative", "score": "concat", "parameters": {"hidden_dim": 2**40}}, {}
    ),
    "model_dim": ({"kind": "multi_head"}, {"model_dim": 2**30}),
    "general's": ({"kind": "multiplicative", "score": "general"}, {"d_q": 2**14, "d_k": 2**14}),
    "hidden units of pairs": (
        {"kind": "additive", "parameters": {"hidden_dim": 2**16}},
        {"query_length": 2**12, "d_k": 1},
    ),
    "beyond every integer": ({"kind": "multi_head", "heads": 2**62}, {"model_dim": 2**62}),
}  # fmt: skip


def admit(request):
    """What comes before the work."""
    planned = plan(request)
    check(needs([planned], estimate(planned, threads=2, json=True)), Settings())


@pytest.mark.parametrize("include", [[], HARMS], ids=["nothing", "harms"])
@pytest.mark.parametrize(("mechanism", "shape"), HUGE.values(), ids=HUGE)
def test_a_huge_request_is_refused_before_anything_is_allocated(mechanism, shape, include):
    """Learned weights of terabytes that a seed would draw are compared with the limits first."""
    inputs = {"kind": "seeded", "query_length": 3, **shape}
    request = AttentionRequest.model_validate(
        {"mechanism": mechanism, "inputs": inputs, "include": include}
    )
    tracemalloc.start()
    try:
        with pytest.raises(LimitExceeded):
            admit(request)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**20
