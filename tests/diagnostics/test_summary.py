"""All rows part by part: nothing depends on where the cuts fall, nor on who else is there."""

import numpy as np
import pytest
import torch

from service.diagnostics import DIAGNOSTICS, summary
from service.diagnostics.aggregate import undefined
from service.diagnostics.offer import offer
from service.diagnostics.rows import Columns
from service.diagnostics.summary import Material, RowFigures, summarise
from service.normalizers import NORMALIZERS
from tests.builders import analyse

MEMBERS = offer("tensors", "softmax", hidden=False).members
BATCH, HEADS, ROWS, KEYS = 2, 3, 11, 7


def material(batch=BATCH, heads=HEADS, rows=ROWS, *, ragged=False, seed=0):
    """Statistics as they might be of logits over KEYS keys; `ragged`: rows see 0 to KEYS keys."""
    random = np.random.default_rng(seed)
    columns = {name: random.random((batch, heads, rows)) for name in Columns._fields}
    shape = (batch, heads, rows)
    columns["visible"] = np.full(shape, float(KEYS))
    columns["overflowed"] = np.zeros(shape)
    if ragged:
        columns["visible"] = random.integers(0, KEYS, shape).astype(float)
        columns["overflowed"] = (random.random(shape) > 0.8).astype(float)
    return Material(Columns(**columns), 0.5, NORMALIZERS["softmax"], None, {}, {})


def whole(found):
    """Everything that a summary holds, as bytes."""
    sums, counts = found.sums, (found.regimes, found.counts)
    return [a.tobytes() for a in (sums.total, sums.lowest, sums.highest, sums.rows, *counts)]


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("part_rows", [1, 4, ROWS, 3 * ROWS, 1000])
def test_the_size_of_a_part_changes_nothing_but_rounding(monkeypatch, part_rows, ragged):
    """Minima, maxima, counts and figures are the same to the last bit, sums to the last few."""
    given = material(ragged=ragged)
    expected = summarise(MEMBERS, given, keep=True)
    monkeypatch.setattr(summary, "PART_ROWS", part_rows)
    for keep in (False, True):
        found = summarise(MEMBERS, given, keep=keep)
        assert whole(found)[1:] == whole(expected)[1:]
        np.testing.assert_allclose(found.sums.total, expected.sums.total, rtol=1e-14)
        if keep:
            assert found.figures.tobytes() == expected.figures.tobytes()
        else:
            assert found.figures is None


@pytest.mark.parametrize("part_rows", [4, 2 * ROWS, 1000])
def test_a_batch_item_has_the_same_bytes_in_any_company(monkeypatch, part_rows):
    """One item sees all keys, so that alone its count is one number; its companion does not."""
    monkeypatch.setattr(summary, "PART_ROWS", part_rows)
    first, second = material(1), material(1, ragged=True, seed=1)
    both = Material(
        Columns(*map(np.concatenate, zip(first.columns, second.columns, strict=True))),
        *(first.scale, first.weighing, None, {}, {}),
    )
    together = summarise(MEMBERS, both, keep=True)
    for item, own in enumerate((first, second)):
        alone, items = summarise(MEMBERS, own, keep=True), slice(item, item + 1)
        assert alone.figures.tobytes() == together.figures[:, items].tobytes()
        assert alone.regimes.tobytes() == together.regimes[:, items].tobytes()
        assert alone.counts.tobytes() == together.counts[:, items].tobytes()
        for name in ("total", "lowest", "highest", "rows"):
            mine, theirs = getattr(alone.sums, name), getattr(together.sums, name)
            finite = alone.sums.rows > 0
            assert mine[finite].tobytes() == theirs[:, items][finite].tobytes(), name


@pytest.mark.parametrize("ragged", [False, True])
def test_figures_that_were_not_kept_are_computed_when_asked_for(ragged):
    """They are those that were summed up, of all rows and of a part of the batch."""
    given = material(ragged=ragged)
    kept = RowFigures(MEMBERS, given, {}, summarise(MEMBERS, given, keep=True).figures)
    later = RowFigures(MEMBERS, given, {})
    assert list(later) == [member.name for member in MEMBERS] == list(kept)
    assert "entropy" in later
    assert "row_sum" not in later
    for own, other in ((later, kept), (later.part(slice(1, 2)), kept.part(slice(1, 2)))):
        for name, figure in own.items():
            torch.testing.assert_close(figure, other[name], rtol=0, atol=0, equal_nan=True)


def test_what_is_not_included_is_not_computed(monkeypatch):
    """An answer of the output alone has no figure."""

    def refuse(*_, **__):
        raise AssertionError

    monkeypatch.setattr("service.report.summarise", refuse)
    found = analyse(inputs={"kind": "seeded"}, include=["output"])
    assert (dict(found.rows), dict(found.diagnostics)) == ({}, {})


def test_aggregates_are_cut_out_by_name():
    """They come in the order of the table, those that are undefined among them, with a reason."""
    found = analyse(
        inputs={"kind": "seeded"}, mechanism={"normalizer": "sigmoid"}, include=["diagnostics"]
    ).diagnostics
    table = [name for name in DIAGNOSTICS if name in found]
    assert list(found) == table
    assert len(found) == len(table)
    assert found["jacobian_trace"].reason == "defined for softmax, not for sigmoid"
    assert found["jacobian_trace"].mean.isnan().all()
    assert not found.defines("jacobian_trace")
    assert found["entropy"].reason is None
    assert found.mean("entropy") == pytest.approx(float(found["entropy"].mean.mean()))
    assert (found.mean("jacobian_trace"), found.mean("no such figure")) == (None, None)
    with pytest.raises(KeyError):
        found["no such figure"]


def test_others_come_after_and_take_the_place_of_their_namesakes():
    """A figure is in the aggregates once."""
    first = undefined(1, 2, {"a": "nat", "b": "1"}, {"a": "for one reason"})
    second = undefined(1, 2, {"c": "1", "a": "keys"}, {"a": "for another"})
    found = first.with_others(second)
    assert dict(found.units) == {"b": "1", "c": "1", "a": "keys"}
    assert found["a"].reason == "for another"
    assert found.figures.shape == (3, 3, 1, 2)
    assert list(found.only("c")) == ["c"]
