"""The compiled pass against the eager one where it gives rows back, masked in every way."""

import math
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.attention import AttentionRequest
from service.analysis import analyse as run
from service.attention.native import library
from service.attention.native.library import Native
from service.attention.workers import Workers
from service.errors import NonFinite
from service.plan import plan
from service.runtime import Runtime
from tests.builders import CPU, analyse, everything, normal, qkv
from tests.passes import set_blocks

QUERIES, KEYS = 21, 17
MASKS = {
    "none": {},
    "causal": {"causal": "upper_left"},
    "to the end": {"causal": "lower_right"},
    "window": {"causal": "upper_left", "window": {"left": 3}},
    "past the keys": {"window": {"left": 2}, "key_lengths": torch.tensor([6, 17])},
    "before them": {"offset": torch.tensor(-9), "causal": "upper_left"},
    "no keys": {"key_lengths": torch.tensor([0, 5])},
    "dense": {"bias": torch.where(normal(QUERIES, KEYS, seed=9) > 0.5, -math.inf, 0.5)},
}
BAD = [math.nan, math.inf, -math.inf, 1e38, 1e19, 300.0]


@pytest.fixture(autouse=True)
def each_pass():
    """These tests name the pass themselves."""
    if library.available() is None:
        pytest.skip("the native pass is not built here")


@pytest.fixture
def poisoned(monkeypatch):
    """Fresh memory holds what no analysis gives."""
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, **k: empty(*a, **k).fill_(7.25))


def both(**request):
    """By the compiled pass and by the eager one: the analysis, or what is wrong."""
    found = []
    for native in (library.load(), None):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(library, "available", lambda native=native: native)
            try:
                found.append(analyse(**request))
            except NonFinite as error:
                found.append(error)
    return found


def assert_alike(compiled, eager):
    """The same refusal, or the same tensors, rows and counts."""
    assert type(compiled) is type(eager)
    if isinstance(eager, NonFinite):
        assert str(compiled) == str(eager)
        return
    assert compiled.numerics == eager.numerics
    others = everything(compiled)
    for name, expected in everything(eager).items():
        if name == "argmax" and eager.plan.request.mechanism.softcap is not None:
            continue  # keys at the softcap are alike but for the rounding of tanh
        size = float(expected.double().nan_to_num(0, 0, 0).abs().max())
        torch.testing.assert_close(
            others[name].double(), expected.double(), rtol=2e-5, atol=1e-5 * max(size, 1.0),
            equal_nan=True, msg=lambda text, name=name: f"{name}: {text}",
        )  # fmt: skip


@settings(max_examples=150)
@given(
    mask=st.sampled_from(sorted(MASKS)),
    bad=st.sampled_from(BAD),
    place=st.sampled_from(["query", "key", "value"]),
    row=st.integers(0, KEYS - 1),
    softcap=st.sampled_from([None, None, 3.0]),
    rows=st.booleans(),
    nonfinite=st.sampled_from(["refuse", "propagate"]),
    block=st.sampled_from([4, 1024]),
)
def test_one_entry_changes_nothing_else(mask, bad, place, row, softcap, rows, nonfinite, block):
    """Huge or not finite, hidden or seen: rows given back, refusals and counts are eager's."""
    operands = {
        "query": normal(2, 4, QUERIES, 8, seed=1),
        "key": normal(2, 2, KEYS, 8, seed=2),
        "value": normal(2, 2, KEYS, 5, seed=3),
    }
    operands[place][0, 1, row, 3] = bad
    empty = torch.empty
    with pytest.MonkeyPatch.context() as patch:
        set_blocks(patch, keys=block, logits=64 * block)
        patch.setattr(torch, "empty", lambda *a, **k: empty(*a, **k).fill_(7.25))
        found = both(
            inputs=qkv(**operands),
            mask=MASKS[mask],
            mechanism={"softcap": softcap},
            compute={"nonfinite": nonfinite},
            include=["output", "row_diagnostics"] if rows else ["output"],
        )
    assert_alike(*found)


def test_rows_without_a_key_are_written_where_their_unit_is_given_back(poisoned):
    """A unit that overflows is cut into smaller ones, of which some see nothing."""
    query, key, value = normal(1, 4, 640, 8), normal(1, 1, 512, 8, seed=1), normal(1, 1, 512, 8)
    query[0, 0, 200], key[0, 0, 3] = 1e30, 1e10
    request = {"mask": {"causal": "lower_right"}, "include": ["output", "row_diagnostics"]}
    compiled, eager = both(inputs=qkv(query, key, value), **request)
    assert compiled.pass_name == "native"
    assert compiled.numerics.fully_masked_rows == 4 * 128
    assert_alike(compiled, eager)


def test_a_window_past_the_last_key_asks_nothing_of_the_products(capfd):
    """BLAS says on the process's own output what it is wrongly asked."""
    query, key, value = (normal(1, 2, 512, 8, seed=s) for s in (1, 2, 3))
    mask = {"window": {"left": 10}, "key_lengths": torch.tensor([200])}
    found = both(inputs=qkv(query, key, value), mask=mask, include=["output", "row_diagnostics"])
    assert_alike(*found)
    assert found[0].numerics.fully_masked_rows == 2 * (512 - 210)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("again", [[], ["key_share"]], ids=["one look", "a second one"])
def test_no_thread_computes_on_when_an_analysis_is_stopped(again, monkeypatch):
    """What it wrote to would be another's memory by then."""
    inside, lock, looked = [0], threading.Lock(), [0]

    def counted(call):
        def within(*args):
            with lock:
                inside[0] += 1
            try:
                return call(*args)
            finally:
                with lock:
                    inside[0] -= 1

        return within

    class Stopped(Exception):
        """Nobody waits any more."""

    def checkpoint():
        looked[0] += 1
        if looked[0] > 4:
            raise Stopped

    monkeypatch.setattr(Native, "run", counted(Native.run))
    monkeypatch.setattr(Native, "revisit", counted(Native.revisit))
    tensors = qkv(*(normal(1, 8, 2048, 32, seed=s) for s in (1, 2, 3)))
    request = {"inputs": tensors, "include": ["output", "diagnostics", *again]}
    planned = plan(AttentionRequest.model_validate(request))
    workers = Workers(4)
    for _ in range(5):
        looked[0] = 0
        with pytest.raises(Stopped):
            run(planned, Runtime(CPU, workers, checkpoint))
        assert inside[0] == 0
    workers.close()


def test_every_thread_has_ended_when_the_first_of_them_has_failed():
    """The slowest too, whatever the others raise."""
    workers, ended, begun = Workers(3), [], threading.Barrier(3)

    def work():
        begun.wait(10)
        if threading.current_thread().name.endswith("_1"):
            threading.Event().wait(0.2)
            ended.append(True)
            return
        raise ValueError

    with pytest.raises(ValueError):
        workers.together(work, stop=lambda: None)
    assert ended
    workers.close()
