import json
import random
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from schemas.attention import AttentionRequest
from service import estimate as module
from service.attention.workers import Workers
from service.encodings import JSON, SAFETENSORS
from service.errors import LimitExceeded
from service.estimate import Estimate, estimate
from service.includes import INCLUDES
from service.job import prepare, run, write
from service.limits import check
from service.plan import plan
from service.runtime import Runtime
from service.settings import Settings
from tests.builders import normal
from tests.files import EXAMPLE, file_of
from tests.memory import peak_of

SETTINGS = Settings(max_peak_bytes=2**40, max_answer_bytes=2**40)
ROOT = Path(__file__).parents[1]
RUNTIME = Runtime(torch.device("cpu"), Workers(1))
ALLOWANCE = module._FIXED_BYTES
COMMON = {"device": "cpu", "torch": "2.13.0", "batch_size": 1, "request_id": "x" * 128,
          "timing_ms": {"queue": 123456.789, "compute": 123456.789}}  # fmt: skip


@pytest.fixture
def little_slack(monkeypatch):
    """Compare without the fixed allowance, which is for theory's grids and hides small errors."""
    monkeypatch.setattr(module, "_FIXED_BYTES", 2**17)


def job_of(content, *, encoding=JSON, accept=JSON, request=None):
    return prepare(
        bytearray(content),
        encoding=encoding,
        accept=accept,
        request=request,
        settings=SETTINGS,
        threads=1,
    )


def allowed_bytes(job):
    """The estimate, and the allowance where theory needs it."""
    theory = any("theory" in plan.include for _, plan in job.plans)
    return job.estimate.peak_bytes + (ALLOWANCE if theory else 0)


def answer_bytes(job):
    """The answer's length."""
    return len(write(job, run(job, RUNTIME), COMMON))


def peak_bytes(job):
    """The most that torch and Python hold at a time, over the whole job."""
    return measured(job)[0]


def measured(job, runtime=RUNTIME):
    """The most that is held at a time, and the analyses."""
    most, held, (analyses, written) = peak_of(lambda: _answered(job, runtime))
    return max(most, held + written), analyses


def _answered(job, runtime):
    """The analyses, and the most bytes that writing them took."""
    analyses = run(job, runtime)
    tracemalloc.start()
    write(job, analyses, COMMON)
    written = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return analyses, written


def random_request(seed):
    """A request of up to 150,000 logits, with whatever may be combined."""
    draw = random.Random(seed)
    kv_heads, group = draw.choice([1, 2, 3]), draw.choice([1, 1, 2, 8])
    queries, keys = draw.choice([1, 7, 60, 300]), draw.choice([1, 9, 150, 1100, 2100])
    batch = draw.choice([1, 1, 2, 3])
    while batch * kv_heads * group * queries * keys > 150_000:
        keys //= 2
    inputs = {
        "kind": "seeded",
        "seed": seed,
        "batch": batch,
        "heads": kv_heads * group,
        "kv_heads": kv_heads,
        "query_length": queries,
        "key_length": keys,
        "d_k": draw.choice([1, 5, 64, 130]),
        "d_v": draw.choice([1, 6, 64, 200]),
        "std": draw.choice([1, 1, 1, 30, 1e-30]),
    }
    mask = {}
    if draw.random() < 0.3:
        mask["causal"] = draw.choice(["upper_left", "lower_right"])
    if draw.random() < 0.3:
        mask["window"] = {"left": draw.randrange(keys), "right": draw.randrange(keys)}
    if draw.random() < 0.3:
        mask["key_lengths"] = [draw.randint(0, keys) for _ in range(batch)]
    if draw.random() < 0.3 and queries * keys <= 100_000:
        mask["allowed"] = [[draw.random() < 0.5 for _ in range(keys)] for _ in range(queries)]
    if draw.random() < 0.3 and queries * keys <= 100_000:
        mask["bias"] = [[draw.choice([None, -2e4, 0.5]) for _ in range(keys)]] * queries
    mechanism = {"kind": "scaled_dot_product"}
    if draw.random() < 0.3:
        mechanism |= {"scale": draw.choice([0, 1, -0.1]), "softcap": draw.choice([None, 50])}
    include = draw.sample(sorted(INCLUDES), draw.randint(0, len(INCLUDES)))
    return {
        "mechanism": mechanism,
        "inputs": inputs,
        "mask": mask,
        "include": draw.choice([None, include, include]),
        "compute": {"dtype": draw.choice([None, None, "float16", "bfloat16", "float64"])},
        "tensor_format": draw.choice(["nested", "flat", "base64"]),
    }


@pytest.mark.parametrize("seed", range(40))
def test_no_random_request_needs_more_than_estimated(little_slack, seed):
    """Memory and answer stay within the estimate, whatever is combined, in both encodings."""
    content = json.dumps(random_request(seed)).encode()
    jobs = [job_of(content, accept=accept) for accept in (JSON, SAFETENSORS)]
    job = jobs[seed % 2]
    peak, analyses = measured(job)
    assert peak <= allowed_bytes(job)
    for job in jobs:
        assert len(write(job, analyses, COMMON)) <= job.estimate.answer_bytes


EXTREMES = {
    "many rows of one key": {"heads": 4, "query_length": 20_000, "key_length": 1, "d_k": 1},
    "many heads of one row": {"heads": 2_000, "query_length": 1, "key_length": 1, "d_k": 1},
    "many keys of one row": {"query_length": 1, "key_length": 90_000, "d_k": 3},
    "many dimensions": {"query_length": 3, "d_k": 100_000},
    "shared keys": {"heads": 128, "kv_heads": 1, "query_length": 1, "key_length": 4096},
    "a whole batch": {"batch": 60, "query_length": 5, "d_k": 7},
    "one of everything": {"query_length": 1, "d_k": 1},
}


@pytest.mark.parametrize("include", [["diagnostics"], None])
@pytest.mark.parametrize("shape", EXTREMES.values(), ids=EXTREMES)
def test_no_extreme_shape_needs_more_than_estimated(little_slack, shape, include):
    """Lopsided shapes stay within the estimate too, and it is not ten times what they need.

    The pass that any request may end in decides; the compiled one needs less.
    """
    document = {"inputs": {"kind": "seeded", **shape}, "include": include}
    job = job_of(json.dumps(document).encode(), accept=SAFETENSORS)
    peak, analyses = measured(job)
    general, _ = measured(job, replace(RUNTIME, native=None))
    assert peak <= job.estimate.peak_bytes <= 10 * general + 2**20
    assert len(write(job, analyses, COMMON)) <= job.estimate.answer_bytes


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_casts_and_copies_are_estimated(little_slack, dtype):
    """Inputs drawn, cast, computed in another dtype and copied to be aligned are all counted."""
    shape = {"kind": "seeded", "batch": 3, "query_length": 3, "d_k": 50_001}
    document = {"inputs": shape, "include": ["diagnostics"], "compute": {"dtype": dtype}}
    job = job_of(json.dumps(document).encode())
    assert peak_bytes(job) <= job.estimate.peak_bytes


@pytest.mark.parametrize(
    ("tensor_format", "dtype"),
    [
        *(("nested", dtype) for dtype in ("float16", "bfloat16", "float32", "float64")),
        ("flat", "float64"),
        ("base64", "float64"),
    ],
)
def test_the_longest_numbers_are_estimated(tensor_format, dtype):
    """Numbers with all digits and an exponent, each in a list of its own, stay within the bound."""
    number = {"float16": -6.1e-5, "float64": -1.2345678901234567e-300}.get(dtype, -1.1754944e-38)
    kind = getattr(torch, dtype)
    tensors = {
        "query": torch.ones(40_000, 1, dtype=kind),
        "key": torch.ones(1, 1, dtype=kind),
        "value": torch.full((1, 1), number, dtype=kind),
    }
    request = json.dumps({"include": ["output"], "tensor_format": tensor_format})
    job = job_of(file_of(tensors), encoding=SAFETENSORS, request=request)
    assert answer_bytes(job) <= job.estimate.answer_bytes


@pytest.mark.parametrize("character", ["\x01", "é", "😀", '"', "\\", "x"])
def test_the_callers_text_is_estimated(character):
    """Labels that take six bytes a character in JSON stay within the bound."""
    labels = {"query": [character * 200] * 300, "key": [character * 199] * 200}
    shape = {"kind": "seeded", "query_length": 300, "key_length": 200, "d_k": 1}
    document = {"inputs": shape, "labels": labels, "include": []}
    for accept in (JSON, SAFETENSORS):
        job = job_of(json.dumps(document).encode(), accept=accept)
        assert answer_bytes(job) <= job.estimate.answer_bytes


@pytest.mark.parametrize("character", ["\x01", "é", "x"])
@pytest.mark.parametrize("accept", [JSON, SAFETENSORS])
def test_the_names_of_groups_are_estimated(character, accept):
    """A ranking repeats a group's name for each head, however long and strange it is."""
    names = [f"{i}{character * 240}" for i in range(3)]
    tensors = {f"{name}.query": normal(1, 300, 1, 1) for name in names}
    ignored = {f"{i}{character * 250}": torch.ones(1) for i in range(100)}
    request = json.dumps({"ignore_unknown": True, "include": ["diagnostics", "row_diagnostics"]})
    content = file_of({**tensors, **ignored})
    job = job_of(content, encoding=SAFETENSORS, accept=accept, request=request)
    assert answer_bytes(job) <= job.estimate.answer_bytes


@pytest.mark.parametrize(
    ("accept", "include"),
    [(JSON, None), (SAFETENSORS, ["diagnostics"]), (JSON, ["row_diagnostics", "sparsity"])],
)
def test_a_stored_model_needs_no_more_than_estimated(little_slack, accept, include):
    """What each group keeps is there until the answer to all of them is written."""
    request = json.dumps({"ignore_unknown": True, "include": include})
    content = EXAMPLE.read_bytes()
    job = job_of(content, encoding=SAFETENSORS, accept=accept, request=request)
    peak, analyses = measured(job)
    assert peak <= job.estimate.peak_bytes
    assert len(write(job, analyses, COMMON)) <= job.estimate.answer_bytes


def test_groups_add_up(little_slack):
    """Many groups of many rows keep their figures, though the answer is small."""
    tensors = {f"{i}.query": normal(9000, 1, seed=i) for i in range(12)}
    tensors |= {f"{i}.key": normal(1, 1, seed=i) for i in range(12)}
    content = file_of(tensors, {"request": '{"include":["diagnostics"]}'})
    job = job_of(content, encoding=SAFETENSORS)
    assert peak_bytes(job) <= job.estimate.peak_bytes
    assert job.estimate.answer_bytes < job.estimate.kept_bytes


def test_estimates_add_as_if_one_ran_after_the_other():
    """The second runs beside what the first keeps; operations and answers add."""
    first, second = Estimate(1, 100, 30, 5), Estimate(2, 90, 20, 7)
    assert first + second == Estimate(3, 120, 50, 12)
    assert second + first == Estimate(3, 120, 50, 12)
    assert first + second + second == Estimate(5, 140, 70, 19)
    assert (first + second).peak_bytes == 120 + 3 * 12


RESIDENT = """
import json
from pathlib import Path
import torch
from service.attention.workers import Workers
from service.encodings import JSON, SAFETENSORS
from service.job import prepare, run, write
from service.runtime import Runtime
from service.settings import Settings

def once(document):
    job = prepare(bytearray(json.dumps(document).encode()), encoding=JSON, accept=SAFETENSORS,
                  request=None, settings=Settings(), threads=2)
    write(job, run(job, Runtime(torch.device("cpu"), workers)), {})
    lines = Path("/proc/self/status").read_text().splitlines()
    (most,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return job.estimate.peak_bytes, int(most) * 1024

workers = Workers(2)
_, before = once({"include": sorted(["output", "weights", "diagnostics"])})
shape = {"kind": "seeded", "query_length": 3000, "key_length": 4000, "d_k": 64}
estimated, after = once({"inputs": shape, "include": ["output", "weights", "logits"]})
print(json.dumps([estimated, after - before]))
workers.close()
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells the peak there")
def test_the_process_grows_no_more_than_estimated():
    """What the operating system sees of a large analysis on two threads is within the estimate."""
    found = subprocess.run(
        [sys.executable, "-c", RESIDENT],
        cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=100,
        check=True,
    )  # fmt: skip
    estimated, grown = json.loads(found.stdout)
    assert grown > 50_000_000
    assert grown <= estimated <= 6 * grown


def test_a_refusal_costs_nothing_however_many_rows_are_asked_for():
    """A seeded request of 2**26 rows and 2**18 keys is refused without making its units."""
    inputs = {"kind": "seeded", "query_length": 2**26, "key_length": 2**18, "d_k": 1}
    planned = plan(AttentionRequest.model_validate({"inputs": inputs, "include": ["key_share"]}))
    tracemalloc.start()
    try:
        cost = estimate(planned, threads=2, json=True)
        with pytest.raises(LimitExceeded):
            check(cost.needs, Settings())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**20
