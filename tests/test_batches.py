"""Requests that are computed together."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from service import batch
from service.attention.workers import Workers
from service.encodings import JSON, SAFETENSORS
from service.errors import ServiceError
from service.job import key_of, prepare, run_together, write
from service.runtime import Runtime
from service.settings import Settings
from tests.files import file_of
from tests.passes import each_pass  # noqa: F401 - a fixture of every test here

WORKERS = Workers(2)
SETTINGS = Settings()
INCLUDE = ["output", "weights", "logits", "scores", "diagnostics", "row_diagnostics", "key_share",
           "sparsity", "jacobian_spectral"]  # fmt: skip
MECHANISMS = {
    "dot": {"softcap": 3.0},
    "softmax_one": {"normalizer": "softmax_one", "scale": 2.5},
    "sparsemax": {"normalizer": "sparsemax"},
    "additive": {"kind": "additive", "parameters": {"kind": "seeded", "hidden_dim": 5}},
    "general": {"kind": "multiplicative", "score": "general"},
    "multi_head": {"kind": "multi_head", "heads": 3},
    "grouped": {"kind": "multi_head", "heads": 6, "kv_heads": 2},
}
N, M = 5, 7


def runtime():
    """By the pass that the test names."""
    return Runtime(torch.device("cpu"), WORKERS)


def inputs(kind, batch_items, seed):
    """Seeded inputs of one request, of the model's dimension where the mechanism divides it."""
    shape = {"kind": "seeded", "seed": seed, "batch": batch_items, "query_length": N}
    shape["key_length"] = M
    return {**shape, **({"model_dim": 12} if kind in ("multi_head", "grouped") else
                        {"heads": 4, "kv_heads": 2, "d_k": 11})}  # fmt: skip


def mask_of(name, batch_items, heads, seed):
    """A mask whose tensors differ from request to request."""
    drawn = torch.Generator().manual_seed(seed)

    def rand(*shape):
        return torch.rand(*shape, generator=drawn)

    lengths = torch.randint(0, M + 1, (batch_items,), generator=drawn).tolist()
    return {
        "none": {},
        "causal": {"causal": "lower_right"},
        "padded": {"causal": "lower_right", "key_lengths": lengths, "window": {"left": 3}},
        "offset": {"causal": "upper_left", "offset": lengths if seed % 2 else 2},
        "allowed": {"allowed": (rand(N, M) > 0.3).tolist()},
        "bias": {"bias": rand(batch_items, heads, N, M).tolist(), "forbid_below": 0.1},
    }[name]


def job_of(document, accept=JSON):
    body = bytearray(json.dumps(document).encode())
    return prepare(body, encoding=JSON, accept=accept, request=None, settings=SETTINGS, threads=2)


def bytes_of(job, analyses):
    return bytes(write(job, analyses, {}))


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(list(MECHANISMS)),
    mask=st.sampled_from(["none", "causal", "padded", "offset", "allowed", "bias"]),
    sizes=st.lists(st.integers(1, 3), min_size=2, max_size=5),
    dtype=st.sampled_from([None, "float64", "float16"]),
    include=st.sampled_from([INCLUDE, ["output", "diagnostics"], ["row_diagnostics"], []]),
    accept=st.sampled_from([JSON, SAFETENSORS]),
    seed=st.integers(0, 999),
)
def test_an_answer_has_the_same_bytes_alone_and_together(
    kind, mask, sizes, dtype, include, accept, seed
):
    """Every byte of an answer is the same, whatever it was computed with."""
    heads = {"multi_head": 3, "grouped": 6}.get(kind, 4)
    jobs = [
        job_of(
            {
                "inputs": inputs(kind, size, seed + i),
                "mechanism": MECHANISMS[kind],
                "mask": mask_of(mask, size, heads, seed + i),
                "include": include,
                "compute": {"dtype": dtype},
            },
            accept,
        )
        for i, size in enumerate(sizes)
    ]
    assert key_of(jobs[0]) is not None
    assert {key_of(job) for job in jobs} == {key_of(jobs[0])}
    together = run_together(jobs, runtime())
    for job, analyses in zip(jobs, together, strict=True):
        (alone,) = run_together([job], runtime())
        assert bytes_of(job, analyses) == bytes_of(job, alone)


def test_a_bad_request_harms_none_of_its_companions():
    """What is wrong with one is said of that one; the others are answered as ever."""
    good = {"inputs": {"kind": "tensors", "query": [[1.0, 2.0]]}, "include": ["output"]}
    infinite = {"shape": [1, 2], "dtype": "float32", "data": "AACAfwAAgD8="}
    bad = {**good, "inputs": {"kind": "tensors", "query": infinite}}
    jobs = [job_of(document) for document in (good, bad, good)]
    assert len({key_of(job) for job in jobs}) == 1
    first, error, last = run_together(jobs, runtime())
    assert isinstance(error, ServiceError)
    assert "infinite" in error.detail
    assert bytes_of(jobs[0], first) == bytes_of(jobs[2], last)
    assert [type(e) for e in run_together([jobs[1]] * 2, runtime())] == [type(error)] * 2


DIFFERENT = [
    {"inputs": {"kind": "seeded", "query_length": 17}},
    {"inputs": {"kind": "seeded", "d_k": 63}},
    {"inputs": {"kind": "seeded", "heads": 2}},
    {"mechanism": {"scale": 1.0}},
    {"mechanism": {"normalizer": "sigmoid"}},
    {"mechanism": {"kind": "additive"}},
    {"mechanism": {"kind": "additive", "parameters": {"kind": "seeded", "seed": 1}}},
    {"mask": {"causal": "upper_left"}},
    {"mask": {"key_lengths": [3]}},
    {"mask": {"causal": "upper_left", "window": {"left": 1}}},
    {"mask": {"causal": "upper_left", "window": {"left": 2}}},
    {"mask": {"allowed": [[True] * 16] * 16}},
    {"mask": {"allowed": [[True] * 16]}},
    {"mask": {"bias": [[0.0] * 16] * 16}},
    {"mask": {"bias": [[0.0] * 16] * 16, "forbid_below": -5.0}},
    {"include": ["output"]},
    {"include": [{"name": "sparsity", "threshold": 0.1}]},
    {"include": ["sparsity"]},
    {"compute": {"dtype": "float64"}},
    {},
]


def test_only_equal_plans_share_a_key():
    """Whatever changes a shape, an option or what is asked for is computed apart."""
    keys = [key_of(job_of(document)) for document in DIFFERENT]
    assert None not in keys
    assert len(set(keys)) == len(DIFFERENT)
    assert key_of(job_of({"inputs": {"kind": "seeded", "seed": 9, "std": 2.0}})) == keys[-1]


@pytest.mark.parametrize(
    "document",
    [
        {"include": ["gradients"]},
        {"include": ["theory"]},
        {"include": ["perturbation"]},
        {"include": ["flip_margin"]},
        {"mechanism": {"scale": {"kind": "log_length", "base": 16.0}}},
        {"compute": {"nonfinite": "propagate"}},
        {"inputs": {"kind": "logits", "logits": [[1.0, 2.0]]}},
        {"inputs": {"kind": "seeded", "query_length": 1024}},
        {"inputs": {"kind": "seeded", "query_length": 1, "d_k": 2**18}},
        {
            "inputs": {"kind": "tensors", "query": [[1.0]]},
            "mechanism": {
                "kind": "multiplicative",
                "score": "general",
                "parameters": {"kind": "given", "weight": [[1.0]]},
            },
        },
    ],
)
def test_what_looks_at_the_whole_request_is_computed_alone(document):
    """Sums over a request, weights of its own and large tensors are not stacked."""
    assert key_of(job_of(document)) is None


def test_groups_are_computed_alone():
    """A file of many layers is one request, and not one of many."""
    body = file_of({"a.query": torch.ones(2, 3), "b.query": torch.ones(2, 3)})
    job = prepare(
        bytearray(body),
        encoding=SAFETENSORS,
        accept=JSON,
        request=None,
        settings=SETTINGS,
        threads=1,
    )
    assert key_of(job) is None


def test_together_is_one_pass(monkeypatch):
    """Many requests are one pass, and one request is the ordinary one."""
    passes = []
    attended = batch.attended_to
    monkeypatch.setattr(batch, "attended_to", lambda *a: passes.append(1) or attended(*a))
    jobs = [job_of({"inputs": {"kind": "seeded", "seed": seed}}) for seed in range(4)]
    assert len(run_together(jobs, runtime())) == 4
    assert passes == [1]
    run_together(jobs[:1], runtime())
    assert passes == [1]


def test_an_answer_keeps_the_memory_of_no_companion():
    """Whoever reads slowly holds its own tensors, not those of all that were computed with it."""
    jobs = [job_of({"inputs": {"kind": "seeded", "seed": s}, "include": INCLUDE}) for s in range(8)]
    for ((_, analysis),) in run_together(jobs, runtime()):
        for name, tensor in analysis.tensors.items():
            assert tensor.untyped_storage().nbytes() == tensor.nbytes, name
