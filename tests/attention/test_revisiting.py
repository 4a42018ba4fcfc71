"""The second look at the rows by the library, against the eager one and on what only it does."""

import math

import pytest
import torch

from service.attention.native import library
from service.attention.native.library import Absent, Native
from service.attention.reference import attention
from tests.builders import analyse, everything, normal, qkv, same_bytes
from tests.passes import set_blocks

FIGURES = ["key_share", {"name": "sparsity", "threshold": 0.3}]
ROUNDING = {torch.float32: 5e-6, torch.float64: 1e-12}


@pytest.fixture(autouse=True)
def each_pass():
    """These tests name the pass themselves."""
    if library.available() is None:
        pytest.skip("the native pass is not built here")


@pytest.fixture
def native():
    found = library.load()
    yield found
    found.use(None)


@pytest.fixture
def looks(monkeypatch):
    """How often the library has been asked to look again."""
    seen, look = [], Native.revisit

    def counted(self, *args):
        seen.append(args)
        return look(self, *args)

    monkeypatch.setattr(Native, "revisit", counted)
    return seen


def both(**request):
    """All figures by the eager pass, and by the compiled one."""
    by_native = everything(analyse(**request))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "available", lambda: None)
        return everything(analyse(**request)), by_native


def agree(eager, compiled, dtype):
    """Shares to the rounding of the compute dtype, counts exactly."""
    assert eager.keys() == compiled.keys() == {"key_share", "sparsity"}
    for name, expected in eager.items():
        rounding = ROUNDING[dtype] if name == "key_share" else 0.0
        torch.testing.assert_close(
            compiled[name], expected, rtol=rounding, atol=rounding * 1e-3, equal_nan=True
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("instructions", ["avx512", "avx2", "baseline"])
@pytest.mark.parametrize("length", [1, 7, 16, 33, 130])
def test_every_instruction_set_gives_the_figures_of_the_eager_look(
    length, instructions, dtype, native, looks
):
    """Rows shorter than a vector, of whole ones and a rest, masked in every way, in any blocks."""
    try:
        native.use(instructions)
    except Absent:
        pytest.skip(f"this machine has no {instructions}")
    query = normal(2, 4, 11, 24, seed=1, dtype=dtype)
    key = normal(2, 2, length, 24, seed=2, dtype=dtype)
    masks = [
        {},
        {"causal": "lower_right", "window": {"left": 5}},
        {"causal": "upper_left", "offset": torch.tensor([-3, 2])},
        {"key_lengths": torch.tensor([0, max(1, length - 3)])},
        {"bias": normal(11, length, seed=4, dtype=dtype).masked_fill(
            normal(11, length, seed=5) > 1, -math.inf)},
        {"allowed": normal(2, 1, 11, length, seed=6) > 0, "window": {"left": 4, "right": 3}},
    ]  # fmt: skip
    for mask in masks:
        for scaled in ({"scale": 0.5}, {"scale": 3.0, "softcap": 4.0}):
            for normalizer in ("softmax", "softmax_one"):
                mechanism = {**scaled, "normalizer": normalizer}
                request = {"inputs": qkv(query, key), "mask": mask, "mechanism": mechanism}
                request["include"] = FIGURES
                agree(*both(**request), dtype)
                with pytest.MonkeyPatch.context() as patch:
                    set_blocks(patch, keys=13, logits=256)
                    agree(*both(**request), dtype)
    assert looks


@pytest.mark.parametrize("queries", [1, 4, 5, 41, 300, 1100])
def test_shares_of_any_number_of_rows_are_those_of_the_weights(queries):
    """Rows that are not summed four at a time, and heads in several parts, against float64."""
    query, key = normal(1, 2, queries, 16, seed=1) * 2, normal(1, 2, 37, 16, seed=2)
    found = analyse(inputs=qkv(query, key), include=FIGURES)
    wide = query.double(), key.double()
    weights = attention(*wide, wide[1], scale=0.25)[1]
    torch.testing.assert_close(found.tensors["key_share"], weights.mean(-2), rtol=3e-6, atol=0)
    small = weights < 0.3 * weights.amax(-1, keepdim=True)
    torch.testing.assert_close(found.rows["sparsity"], small.double().mean(-1), rtol=1e-15, atol=0)


@pytest.mark.parametrize("heads", [1, 3, 20])
@pytest.mark.parametrize("mask", [{}, {"causal": "upper_left"}], ids=["", "causal"])
def test_neither_threads_nor_companions_change_a_byte(heads, mask):
    """A head's rows are added in one order: alone or in a batch, on one thread or on three."""
    query, key = (normal(3, heads, 700, 8, seed=s) for s in (1, 2))
    request = {"mask": mask, "include": FIGURES}
    one, three = (
        everything(analyse(inputs=qkv(query, key), threads=threads, **request))
        for threads in (1, 3)
    )
    alone = everything(analyse(inputs=qkv(query[1:2], key[1:2]), threads=3, **request))
    for name, figure in one.items():
        assert same_bytes(figure, three[name])
        assert same_bytes(figure[1:2], alone[name])


def test_an_item_that_overflows_is_left_to_the_eager_look(looks):
    """Its rows count nowhere, and its companions keep the bytes that they have alone."""
    query, key = normal(3, 2, 9, 5, seed=1).abs(), normal(3, 2, 7, 5, seed=2).abs()
    query[1, 0, 4] *= 1e30
    key[1, 0, 3] *= 1e15
    include = ["key_share", "sparsity"]
    together = everything(analyse(inputs=qkv(query, key), include=include))
    assert looks
    for item in (0, 2):
        alone = everything(analyse(inputs=qkv(query[[item]], key[[item]]), include=include))
        assert all(same_bytes(figure[[item]], alone[name]) for name, figure in together.items())
    eager, _ = both(inputs=qkv(query[[1]], key[[1]]), include=include)
    assert eager["sparsity"][0, 0, 4].isnan()
    for name, figure in eager.items():
        torch.testing.assert_close(together[name][[1]], figure, rtol=1e-5, atol=0, equal_nan=True)


def test_hidden_keys_that_are_not_finite_reach_nothing(looks):
    """A NaN behind a mask is in no share, whether a range or a tensor hides it."""
    query, key = normal(1, 1, 9, 5, seed=1), normal(1, 1, 7, 5, seed=2)
    sound = everything(analyse(inputs=qkv(query, key[:, :, :5]), include=FIGURES))
    key[:, :, 5:] = math.nan
    allowed = torch.arange(7) < 5
    for mask in ({"key_lengths": torch.tensor([5])}, {"allowed": allowed.expand(9, 7)}):
        found = everything(
            analyse(
                inputs=qkv(query, key),
                mask=mask,
                include=FIGURES,
                compute={"nonfinite": "propagate"},
            )
        )
        assert found["key_share"][..., 5:].isnan().all()
        torch.testing.assert_close(found["key_share"][..., :5], sound["key_share"])
        torch.testing.assert_close(found["sparsity"], sound["sparsity"])
    assert looks


@pytest.mark.parametrize(
    "other",
    [
        {"include": [*FIGURES, "jacobian_spectral"]},
        {"include": [*FIGURES, "flip_margin"]},
        {"mechanism": {"normalizer": "sparsemax"}},
        {"mechanism": {"kind": "additive"}},
    ],
    ids=["spectral", "flips", "sparsemax", "additive"],
)
def test_what_it_cannot_look_at_is_left_alone(other, looks):
    """Eigenvalues, flips, other scores and other normalisers are looked at eagerly."""
    request = {"inputs": qkv(normal(1, 2, 9, 6, seed=1), normal(1, 2, 7, 6, seed=2))}
    assert analyse(**request, **{"include": FIGURES, **other}).rows["sparsity"].isfinite().all()
    assert not looks


def test_a_maximum_of_another_rounding_gives_no_infinite_weight():
    """Rows that spread too far have their statistics from the eager pass, and no share above 1."""
    query, key = normal(1, 1, 40, 48, seed=1) * 1e9, normal(1, 1, 33, 48, seed=2) * 1e9
    found = analyse(inputs=qkv(query, key, key), include=["key_share", "sparsity"])
    share = found.tensors["key_share"]
    assert bool(((share >= 0) & (share <= 1 + 1e-6)).all())
