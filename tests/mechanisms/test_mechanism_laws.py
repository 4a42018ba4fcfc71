"""Laws that run from the table of mechanisms: a new member is tested by standing in it."""

from typing import Literal, get_args

import pytest
import torch

from schemas.mechanisms import QkNorm, mechanism_models
from service.attention import rows
from service.mechanisms import MECHANISMS, additive_scores
from service.normalizers import NORMALIZERS
from tests.builders import analyse, everything
from tests.mechanisms.variants import (
    ALL,
    BATCH,
    HEADS,
    KEYS,
    MASKS,
    QUERIES,
    VARIANTS,
)
from tests.passes import set_blocks

MATRICES = ["output", "weights", "logits", "scores"]
FIGURES = ["output", "row_diagnostics", "diagnostics"]
CLOSE = {"rtol": 1e-11, "atol": 1e-12}
# Weights pass 1e-5 relative to those of float64 (numerics); scores of a size of 10 err by 1e-6.
SINGLE = {"rtol": 3e-5, "atol": 1e-5}

each_variant = pytest.mark.parametrize("variant", ALL.values(), ids=ALL)
each_normalizer = pytest.mark.parametrize("normalizer", NORMALIZERS)


def test_every_mechanism_has_a_variant():
    """A mechanism without a variant here would pass untested."""
    assert VARIANTS.keys() == MECHANISMS.keys()
    assert all(VARIANTS[kind] for kind in MECHANISMS)


@pytest.mark.parametrize("kind", MECHANISMS)
def test_every_form_of_a_mechanism_has_a_variant(kind):
    """Each score of multiplicative, and each qk_norm of dot products, is in a variant."""
    model = next(
        m for m in mechanism_models() if m.model_fields["kind"].annotation == Literal[kind]
    )
    choice = model.model_fields.get("score")
    forms = {None} if choice is None else set(get_args(choice.annotation))
    assert {v.mechanism.get("score") for v in VARIANTS[kind].values()} == forms
    norms = {v.mechanism.get("qk_norm", "none") for v in VARIANTS[kind].values()}
    member = MECHANISMS[kind]
    requests = [model.model_validate(v.mechanism) for v in VARIANTS[kind].values()]
    heads = member.undivided
    normed = heads or any(member.scores_products(request) for request in requests)
    assert norms == (set(get_args(QkNorm)) if normed else {"none"})


def assert_expected(found, expected, **tolerance):
    """All four matrices are those of the formulas."""
    for name in MATRICES:
        have = found.tensors[name]
        torch.testing.assert_close(have.double(), expected[name], **tolerance, msg=name)


@each_normalizer
@each_variant
def test_every_mechanism_is_its_formula_under_every_normalizer_and_mask(variant, normalizer):
    """Output, weights, logits and scores are the readable formulas', in float64."""
    operands = variant.operands()
    for mask in MASKS.values():
        request = variant.request(operands, normalizer=normalizer)
        found = analyse(**request, mask=mask, include=MATRICES)
        assert_expected(
            found, variant.expected(operands, normalizer=normalizer, mask=mask), **CLOSE
        )
        assert found.scale == pytest.approx(variant.scale, rel=1e-15)


@each_normalizer
@each_variant
def test_scale_and_softcap_act_on_the_scores_of_every_mechanism(variant, normalizer):
    """Any scale, 0 and negative ones too, and a softcap come between scores and bias."""
    operands = variant.operands()
    for scale, softcap in ((0.0, None), (-0.6, 0.8)):
        options = {"normalizer": normalizer, "scale": scale, "softcap": softcap}
        mask = MASKS["bias"]
        found = analyse(**variant.request(operands, **options), mask=mask, include=MATRICES)
        assert_expected(found, variant.expected(operands, mask=mask, **options), **CLOSE)


@each_variant
def test_every_mechanism_keeps_float32(variant):
    """Float32 inputs with float64 weights are computed and answered in float32."""
    operands = variant.operands(torch.float32)
    mask = MASKS["causal"]
    found = analyse(**variant.request(operands), mask=mask, include=MATRICES)
    assert {found.tensors[name].dtype for name in MATRICES} == {torch.float32}
    assert_expected(found, variant.expected(operands, mask=mask), **SINGLE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@each_normalizer
@each_variant
def test_half_precision_is_answered_in_its_dtype(variant, normalizer, dtype):
    """Half inputs give half output and weights, rounded once from float32 arithmetic."""
    operands = variant.operands(dtype)
    request = variant.request(operands, normalizer=normalizer)
    found = analyse(**request, mask=MASKS["allowed"], include=MATRICES)
    assert (found.tensors["output"].dtype, found.tensors["weights"].dtype) == (dtype, dtype)
    assert found.tensors["scores"].dtype == torch.float32
    epsilon = torch.finfo(dtype).eps
    expected = variant.expected(operands, normalizer=normalizer, mask=MASKS["allowed"])
    for name in ("output", "weights"):
        torch.testing.assert_close(
            found.tensors[name].double(), expected[name], rtol=epsilon, atol=3e-5, msg=name
        )


@each_normalizer
@each_variant
def test_output_and_figures_do_not_depend_on_what_else_is_included(variant, normalizer):
    """With weights, logits and scores held, output and figures are those of the stream."""
    operands = variant.operands()
    request = variant.request(operands, normalizer=normalizer)
    mask = MASKS["padded"]
    streamed = everything(analyse(**request, mask=mask, include=FIGURES))
    held = everything(analyse(**request, mask=mask, include=[*FIGURES, *MATRICES]))
    assert len(streamed) > 10
    for name, figure in streamed.items():
        torch.testing.assert_close(held[name], figure, **CLOSE, equal_nan=True, msg=name)


BLOCKED = [(name, "softmax", "bias") for name in ALL] + [
    (name, normalizer, mask)
    for name in ("scaled_dot_product: none", "additive: with bias")
    for normalizer in NORMALIZERS
    for mask in ("padded", "bias")
]


@pytest.mark.parametrize(("name", "normalizer", "mask"), BLOCKED)
def test_the_size_of_the_key_blocks_changes_nothing_beyond_rounding(
    name, normalizer, mask, monkeypatch
):
    """Blocks of 1 or 3 keys and few queries, and small tiles, give output and figures again."""
    operands = ALL[name].operands()
    request = {**ALL[name].request(operands, normalizer=normalizer), "mask": MASKS[mask]}
    include = [*FIGURES, "key_share", "sparsity"]
    whole = everything(analyse(**request, include=include))
    for key_block, block_logits, tile in ((1, 2**18, 40), (3, 30, 300)):
        set_blocks(monkeypatch, keys=key_block)
        set_blocks(monkeypatch, logits=block_logits)
        monkeypatch.setattr(additive_scores, "_TILE", tile)
        cut = everything(analyse(**request, include=include))
        assert cut.keys() == whole.keys()
        for figure, expected in whole.items():
            torch.testing.assert_close(cut[figure], expected, **CLOSE, equal_nan=True, msg=figure)


def record_widths(monkeypatch):
    """The number of keys of each block from now on."""
    widths, fast = [], rows.fast
    monkeypatch.setattr(rows, "fast", lambda s, *rest: widths.append(s.shape[-1]) or fast(s, *rest))
    return widths


@each_normalizer
def test_only_normalizers_of_whole_rows_hold_whole_rows(normalizer, monkeypatch):
    """Where the description says that it streams, blocks have the width asked for."""
    set_blocks(monkeypatch, keys=2)
    widths = record_widths(monkeypatch)
    variant = ALL["additive: with bias"]
    analyse(**variant.request(variant.operands(), normalizer=normalizer), include=["output"])
    streams = "streams" in NORMALIZERS[normalizer].description.memory
    assert max(widths) == (2 if streams else KEYS)


@each_normalizer
@each_variant
def test_permuted_keys_permute_the_weights_and_leave_the_output(variant, normalizer):
    """The order of keys and their values does not matter to a row."""
    query, key, value = variant.operands()
    order = torch.tensor([3, 0, 6, 5, 1, 4, 2])
    given = variant.request((query, key, value), normalizer=normalizer)
    moved = (query, key[..., order, :], value[..., order, :])
    allowed = MASKS["allowed"]["allowed"]
    first = analyse(**given, mask={"allowed": allowed}, include=MATRICES).tensors
    second = analyse(
        **variant.request(moved, normalizer=normalizer),
        mask={"allowed": allowed[..., order]},
        include=MATRICES,
    ).tensors
    torch.testing.assert_close(second["output"], first["output"], **CLOSE)
    for name in ("weights", "logits", "scores"):
        torch.testing.assert_close(second[name], first[name][..., order], **CLOSE, msg=name)


@each_normalizer
@each_variant
def test_rows_without_a_key_have_weights_0_and_no_nan(variant, normalizer):
    """Rows that see nothing weigh nothing, whatever the normaliser; the heads' output is 0."""
    operands = variant.operands(torch.float32)
    mask = {"allowed": torch.ones(QUERIES, KEYS, dtype=torch.bool), "causal": "upper_left"}
    mask["allowed"][2] = False
    found = analyse(
        **variant.request(operands, normalizer=normalizer),
        mask={**mask, "key_lengths": torch.tensor([0, 6])},
        include=[*MATRICES, *FIGURES],
    )
    weights, output = found.tensors["weights"], found.tensors["output"]
    assert not weights[0].any()
    assert not weights[1, :, 2].any()
    assert not output.isnan().any()
    heads = torch.zeros(BATCH, HEADS, QUERIES, 8, dtype=torch.float64)
    nothing = variant.finish(heads).float() if variant.undivided else torch.zeros_like(output)
    torch.testing.assert_close(output[0], nothing[0], rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(output[1, :, 2], nothing[1, :, 2], rtol=1e-6, atol=1e-7)
    assert found.numerics.fully_masked_rows == HEADS * (QUERIES + 1)
    for name in set(found.rows) - {"visible_keys", "argmax", "lse"}:
        assert found.rows[name][0].isnan().all(), name
        assert found.rows[name][1, :, 2].isnan().all(), name
        defined = found.diagnostics[name].rows
        assert (defined[0] == 0).all(), name
        assert (defined[1] <= QUERIES - 1).all(), name
