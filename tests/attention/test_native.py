"""The compiled pass against the eager one, and on what only it does."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.attention import AttentionRequest
from service.attention.native import library
from service.attention.native.library import Absent
from service.attention.reference import attention
from service.attention.workers import Workers
from service.plan import plan
from service.runtime import Runtime
from tests.builders import CPU, analyse, everything, normal, qkv, same_bytes
from tests.passes import set_blocks

FIGURES = ["output", "weights", "row_diagnostics"]
ROUNDING = {torch.float32: 1e-5, torch.float64: 1e-12}


@pytest.fixture
def native():
    found = library.load()
    yield found
    found.use(None)


@pytest.fixture(autouse=True)
def each_pass():
    """These tests name the pass themselves."""
    if library.available() is None:
        pytest.skip("the native pass is not built here")


def both(**request):
    """All tensors and rows by the eager pass, and by the compiled one."""
    by_native = everything(analyse(**request))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "available", lambda: None)
        return everything(analyse(**request)), by_native


def agree(eager, compiled, dtype=torch.float32, *, ties=False):
    """Within the rounding of the compute dtype; `ties`: keys may stand at the softcap alike."""
    assert eager.keys() == compiled.keys()
    for name, expected in eager.items():
        if name == "argmax" and ties:
            continue
        # Differences of sums near 1 keep an absolute error.
        torch.testing.assert_close(
            compiled[name], expected, rtol=ROUNDING[dtype], atol=ROUNDING[dtype], equal_nan=True,
            msg=lambda text, name=name: f"{name}: {text}",
        )  # fmt: skip


def some_hidden(queries, keys, dtype=torch.float32):
    """A bias that hides the last key of every third query, and no other."""
    bias = normal(queries, keys, seed=4, dtype=dtype)
    bias[::3, -1] = -math.inf
    return bias


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("instructions", ["avx512", "avx2", "baseline"])
@pytest.mark.parametrize("length", [1, 7, 16, 33, 130])
def test_every_instruction_set_gives_the_figures_of_the_eager_pass(
    length, instructions, dtype, native, monkeypatch
):
    """Rows shorter than a vector, of whole ones and a rest, in one block and in several."""
    try:
        native.use(instructions)
    except Absent:
        pytest.skip(f"this machine has no {instructions}")
    query = normal(2, 2, 9, 24, seed=1, dtype=dtype)
    key, value = (normal(2, 1, length, 24, seed=s, dtype=dtype) for s in (2, 3))
    masks = [
        {},
        {"causal": "lower_right", "window": {"left": 5}},
        {"bias": normal(9, length, seed=4, dtype=dtype).masked_fill(
            normal(9, length, seed=5) > 1, -math.inf)},
        {"bias": some_hidden(9, length, dtype=dtype), "causal": "upper_left"},
        {"allowed": normal(2, 1, 9, length, seed=6) > 0},
    ]  # fmt: skip
    for mask in masks:
        for mechanism in ({"scale": 1.5}, {"scale": 3.0, "softcap": 4.0}):
            request = {"inputs": qkv(query, key, value), "mask": mask, "mechanism": mechanism}
            ties = "softcap" in mechanism
            agree(*both(**request, include=FIGURES), dtype, ties=ties)
            with pytest.MonkeyPatch.context() as patch:
                set_blocks(patch, keys=13)
                agree(*both(**request, include=FIGURES[::2]), dtype, ties=ties)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    queries=st.integers(1, 40),
    keys=st.integers(1, 60),
    size=st.sampled_from([1e-4, 0.3, 1.0, 3.0, 10.0]),
    shift=st.sampled_from([0.0, 3.0, 40.0]),
    softcap=st.sampled_from([None, 2.0, 30.0]),
    block=st.sampled_from([5, 16, 1024]),
)
def test_the_passes_agree(seed, queries, keys, size, shift, softcap, block):
    """Flat, spread and saturated rows, far from 0 or not, in any blocks."""
    query = normal(1, 2, queries, 16, seed=seed) * size + shift / 16
    key, value = normal(1, 2, keys, 16, seed=seed + 1) + shift, normal(1, 2, keys, 8, seed=seed + 2)
    with pytest.MonkeyPatch.context() as patch:
        set_blocks(patch, keys=block)
        eager, compiled = both(
            inputs=qkv(query, key, value),
            mechanism={"softcap": softcap, "scale": 0.5},
            include=["output", "row_diagnostics"],
        )
    # Scores of size s are known to s · 1e-7, and weights move by as much.
    noise = max(1.0, float(eager["score_max_abs"].abs().max())) * 3e-6
    for name, expected in eager.items():
        if name == "argmax":
            continue
        scale = float(expected.nan_to_num(0, 0, 0).abs().max())
        torch.testing.assert_close(
            compiled[name].double(), expected.double(), rtol=noise, atol=noise * max(scale, 1.0),
            equal_nan=True, msg=lambda text, name=name: f"{name}: {text}",
        )  # fmt: skip


def test_weights_that_flush_against_a_later_maximum_are_counted(monkeypatch):
    """The maximum of the last block decides which weights of the first flush."""
    key = torch.zeros(1, 1, 40, 1)
    key[..., 35, 0] = 200.0
    key[..., 3, 0] = 150.0
    query = torch.ones(1, 1, 3, 1)
    for block in (5, 16, 1024):
        set_blocks(monkeypatch, keys=block)
        found = analyse(inputs=qkv(query, key, key), mechanism={"scale": 1.0}, include=["output"])
        assert found.numerics.underflowed_weights == 3 * 38


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_rounded_as_torch_rounds(dtype):
    """Weights and output in the dtype of the inputs, from arithmetic in float32."""
    query, key, value = (normal(1, 2, 33, 16, seed=s).to(dtype) for s in (1, 2, 3))
    found = analyse(inputs=qkv(query, key, value), include=["output", "weights"])
    wide = [t.double() for t in (query, key, value)]
    expected = attention(*wide, scale=0.25)
    for name, want in zip(("output", "weights"), expected, strict=False):
        assert found.tensors[name].dtype == dtype
        spacing = torch.finfo(dtype).eps
        torch.testing.assert_close(found.tensors[name].double(), want, rtol=spacing, atol=1e-7)


def test_the_tail_of_a_nearly_one_hot_row_keeps_its_digits():
    """At gaps where 1 − Σp² from all weights would be 0 in float32."""
    for gap in (20.0, 40.0, 60.0, 83.0):
        key = -normal(1, 1, 50, 1, seed=1).abs() - gap
        key[..., 17, 0] = 0.0
        request = {"inputs": qkv(torch.ones(1, 1, 1, 1), key, key), "mechanism": {"scale": 1.0}}
        found = analyse(**request, include=["row_diagnostics"]).rows
        wide = {"inputs": qkv(torch.ones(1, 1, 1, 1).double(), key.double(), key.double())}
        exact = analyse(**wide, mechanism={"scale": 1.0}, include=["row_diagnostics"]).rows
        for name in ("jacobian_trace", "jacobian_frobenius", "entropy", "logit_variance_under_p"):
            torch.testing.assert_close(found[name], exact[name], rtol=2e-6, atol=0.0, msg=name)


def test_threads_change_no_byte(native):
    """Whoever computes a unit, its bytes are the same."""
    inputs = qkv(*(normal(2, 4, 300, 32, seed=s) for s in (1, 2, 3)))
    one, three = (
        everything(analyse(inputs=inputs, include=FIGURES, threads=threads)) for threads in (1, 3)
    )
    assert all(same_bytes(one[name], three[name]) for name in one)


@pytest.mark.parametrize("keys", [5, 16, 130])
def test_a_row_has_the_same_bytes_beside_rows_where_a_bias_hides_keys(keys):
    """Short rows are taken side by side, and where none has a hidden key without looking."""
    query = normal(1, 2, 12, 16, seed=1)
    key, value = (normal(1, 2, keys, 16, seed=s) for s in (2, 3))
    bias = some_hidden(12, keys)
    open_rows = torch.arange(12) % 3 != 0
    shown = bias.clone()
    shown[~open_rows] = 0.0
    beside, alone = (
        everything(analyse(inputs=qkv(query, key, value), mask={"bias": b}, include=FIGURES))
        for b in (bias, shown)
    )
    for name, found in beside.items():
        assert same_bytes(found[:, :, open_rows], alone[name][:, :, open_rows]), name


def test_what_was_computed_is_named():
    """The answer says which pass ran."""
    inputs = qkv(normal(1, 1, 4, 8))
    assert analyse(inputs=inputs).pass_name == "native"
    for mechanism in ({"kind": "additive"}, {"normalizer": "sparsemax"}):
        # Scores that are no products, and weights that are no exponentials, are eager everywhere.
        assert analyse(inputs=inputs, mechanism=mechanism).pass_name == "eager"
    assert analyse(inputs=inputs, mechanism={"normalizer": "softmax_one"}).pass_name == "native"
    workers = Workers(1)
    assert Runtime(CPU, workers, native=None).pass_name == "eager"
    assert Runtime(torch.device("cuda"), workers, native=library.available()).pass_name == "eager"


@pytest.mark.parametrize("mask", [{}, {"causal": "upper_left"}, {"window": {"left": 3}}], ids=str)
def test_output_alone_has_the_bytes_it_has_beside_its_figures(mask):
    """Statistics that nothing included needs are not collected; counts and output stay."""
    inputs = qkv(*(normal(2, 2, 70, 32, seed=s) * 9 for s in (1, 2, 3)))
    alone = analyse(inputs=inputs, mask=mask, include=["output"])
    beside = analyse(inputs=inputs, mask=mask, include=["output", "diagnostics"])
    assert same_bytes(alone.tensors["output"], beside.tensors["output"])
    assert alone.numerics == beside.numerics
    assert alone.numerics.underflowed_weights > 0
    planned = [
        plan(AttentionRequest.model_validate({"inputs": inputs, "include": include}))
        for include in (["output", "weights"], ["output", "sparsity"], ["diagnostics"])
    ]
    assert [each.wanted.statistics for each in planned] == [False, True, True]
