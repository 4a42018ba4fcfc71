import pytest
import torch

from tests.builders import analyse, normal, qkv, same_bytes
from tests.passes import set_blocks
from tests.plain import (
    BATCH,
    D_V,
    HEADS,
    KEYS,
    KINDS,
    KV_HEADS,
    NORMALIZERS,
    OPERANDS,
    QUERIES,
    WIDE,
    case_of,
    loaded_mask,
    plain,
    rms,
    upstream_of,
)

SEED = 3
INCLUDE = [{"name": "gradients", "seed": SEED}]
NORMED = [
    (kind, norm) for kind in ("scaled_dot_product", "dot", "multi_head") for norm in ("l2", "rms")
]


def by_autograd(case, visible=None, bias=None, seed=SEED):
    """RMS on all inputs and weights by autograd on the plain formulas; query, key, value apart."""
    leaves = {n: t.clone().requires_grad_() for n, t in case.tensors.items()}
    output = plain(case, leaves, visible, bias).output
    loss = (output * upstream_of(seed, *output.shape)).sum()
    on = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
    four = {n: on[n].unsqueeze(1) if on[n].dim() == 3 else on[n] for n in OPERANDS}
    weights = {n: float(g.square().mean().sqrt()) for n, g in on.items() if n not in OPERANDS}
    return {n: rms(g) for n, g in four.items()}, weights


def check(found, expected, tolerance):
    """Compare every figure, and that nothing is said to have none."""
    inputs, weights = expected
    for name, figure in inputs.items():
        torch.testing.assert_close(found.inputs[name], figure, rtol=tolerance, atol=tolerance)
    assert found.parameters == pytest.approx(weights, rel=tolerance, abs=tolerance)
    assert found.parameters.keys() == weights.keys()


@pytest.mark.parametrize("block_logits", [20, 2**18], ids=["some rows", "whole"])
@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_autograd(kind, normalizer, block_logits, monkeypatch):
    """On inputs and all weights, softcapped, biased and masked, however the work is cut."""
    set_blocks(monkeypatch, logits=block_logits)
    case = case_of(kind, normalizer=normalizer, softcap=1.5, scale=-0.7)
    mask, visible, bias = loaded_mask()
    found = analyse(**case.request, mask=mask, include=INCLUDE).gradients
    expected = by_autograd(case, visible, bias)
    assert all((figure > 0).all() for figure in expected[0].values())
    check(found, expected, 1e-11)


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_without_any_option_are_those_of_autograd(kind, normalizer):
    """With the default scale, no softcap and no mask, from inputs of twice the usual size."""
    case = case_of(kind, normalizer=normalizer, std=2.0)
    check(analyse(**case.request, include=INCLUDE).gradients, by_autograd(case), 1e-11)


@pytest.mark.parametrize(("kind", "qk_norm"), NORMED)
@pytest.mark.parametrize("normalizer", ["softmax", "entmax15"])
def test_gradients_pass_through_the_norms_of_query_and_key(kind, qk_norm, normalizer):
    """The gradient is on query and key as they are given, before l2 and rms."""
    case = case_of(kind, qk_norm=qk_norm, normalizer=normalizer)
    mask, visible, bias = loaded_mask()
    found = analyse(**case.request, mask=mask, include=INCLUDE).gradients
    check(found, by_autograd(case, visible, bias), 1e-11)


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_is_that_of_a_normal_upstream_gradient(kind):
    """Another seed is another randn of the output's shape; the answer says which."""
    case = case_of(kind)
    for seed in (0, 2**63 - 1):
        include = [{"name": "gradients", "seed": seed}]
        found = analyse(**case.request, include=include).gradients
        assert found.seed == seed
        check(found, by_autograd(case, seed=seed), 1e-11)


def test_the_upstream_gradient_is_three_lines_of_pytorch():
    """Generator, randn, autograd over torch's own attention give the figures of one head."""
    query, key, value = normal(5, 4, seed=1), normal(7, 4, seed=2), normal(7, 11, seed=3)
    found = analyse(inputs=qkv(query, key, value), include=["gradients"]).gradients
    leaves = [t.double().requires_grad_() for t in (query, key, value)]
    output = torch.nn.functional.scaled_dot_product_attention(*leaves)
    generator = torch.Generator().manual_seed(2_000_000_000)
    output.backward(torch.randn(5, 11, generator=generator).double())
    for name, leaf in zip(OPERANDS, leaves, strict=True):
        expected = leaf.grad.square().mean().sqrt()
        assert float(found.inputs[name]) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_narrow_inputs_have_the_gradients_of_their_values(kind, dtype):
    """float16 and bfloat16 are computed in float32, whose gradients agree with float64's."""
    case = case_of(kind, dtype=dtype, softcap=3.0)
    mask, visible, bias = loaded_mask()
    found = analyse(**case.request, mask=mask, include=INCLUDE).gradients
    check(found, by_autograd(case, visible, bias.float().to(WIDE)), 2e-5)


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_item_without_a_visible_key_has_no_gradient(kind, normalizer):
    """Its query, key and value get exactly 0, and the other item's figures are as alone."""
    case = case_of(kind, normalizer=normalizer)
    mask = {"key_lengths": torch.tensor([0, KEYS])}
    found = analyse(**case.request, mask=mask, include=INCLUDE).gradients
    visible = torch.tensor([False, True]).view(BATCH, 1, 1, 1).expand(-1, 1, QUERIES, KEYS)
    for name in OPERANDS:
        assert found.inputs[name].isfinite().all()
        assert not found.inputs[name][0].any()
        assert (found.inputs[name][1] > 0).all()
    check(found, by_autograd(case, visible), 1e-11)


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_visible_at_all_is_zero_everywhere(kind, normalizer):
    """Gradients are finite and 0 without a key, except on the bias behind the heads."""
    case = case_of(kind, normalizer=normalizer)
    mask = {"allowed": torch.zeros(QUERIES, KEYS, dtype=torch.bool)}
    found = analyse(**case.request, mask=mask, include=INCLUDE).gradients
    assert not any(figure.any() for figure in found.inputs.values())
    behind = {n: rms for n, rms in found.parameters.items() if rms != 0}
    assert behind.keys() == ({"output_bias"} if kind == "multi_head" else set())


@pytest.mark.parametrize("kind", KINDS)
def test_threads_do_not_change_a_bit(kind, monkeypatch):
    """Keys' gradients add up in one order: one thread and three give the same bytes."""
    set_blocks(monkeypatch, logits=20)
    case = case_of(kind, dtype=torch.float32)
    mask = loaded_mask()[0]
    include = ["gradients", "perturbation", "flip_margin"]
    one, three = (
        analyse(**case.request, mask=mask, include=include, threads=threads) for threads in (1, 3)
    )
    for name in OPERANDS:
        assert same_bytes(one.gradients.inputs[name], three.gradients.inputs[name])
    assert one.gradients.parameters == three.gradients.parameters
    assert same_bytes(one.gradients.relative_to_uniform, three.gradients.relative_to_uniform)
    assert one.rows.keys() == three.rows.keys()
    assert all(same_bytes(figure, three.rows[name]) for name, figure in one.rows.items())


@pytest.mark.parametrize("kind", ["scaled_dot_product", "multi_head"])
def test_one_tensor_for_all_counts_as_three(kind):
    """Query, key and value have gradients of their own where one tensor was given for them."""
    if kind == "multi_head":
        case = case_of(kind)
        shared = normal(BATCH, QUERIES, 13, seed=9, dtype=WIDE)
        for name, rows in (("key_weight", KV_HEADS * 4), ("value_weight", KV_HEADS * D_V)):
            case.weights[name] = normal(rows, 13, seed=rows, dtype=WIDE) / 13**0.5
    else:
        case, shared = case_of(kind), normal(BATCH, HEADS, QUERIES, 4, seed=9, dtype=WIDE)
    case.inputs = dict.fromkeys(OPERANDS, shared)
    given = {"mechanism": case.mechanism, "inputs": qkv(shared)}
    found = analyse(**given, include=INCLUDE).gradients
    check(found, by_autograd(case), 1e-11)
    assert len({float(figure.sum()) for figure in found.inputs.values()}) == 3


@pytest.mark.parametrize("rank", [2, 3])
def test_gradients_always_carry_batch_and_head(rank):
    """Inputs without these axes have figures of one head, over the same numbers."""
    lead = [BATCH][: rank - 2]
    tensors = {"query": normal(*lead, QUERIES, 4), "key": normal(*lead, KEYS, 4)}
    tensors["value"] = normal(*lead, KEYS, D_V)
    found = analyse(inputs=qkv(**tensors), include=INCLUDE).gradients
    four = {n: t if rank == 3 else t[None] for n, t in tensors.items()}
    whole = {n: t.unsqueeze(1) for n, t in four.items()}
    expected = analyse(inputs=qkv(**whole), include=INCLUDE).gradients
    for name in OPERANDS:
        assert found.inputs[name].shape == (BATCH if rank == 3 else 1, 1)
        assert same_bytes(found.inputs[name], expected.inputs[name])


def test_the_closed_form_can_be_left_out():
    """It is a second way to the same gradient, and costs as much again."""
    request = case_of("scaled_dot_product").request
    whole, without = (
        analyse(**request, include=[{"name": "gradients", "closed_form": asked}]).gradients
        for asked in (True, False)
    )
    assert whole.closed_form is not None
    assert (without.closed_form, without.closed_form_reason) == (None, "not asked for")
    for name, figure in whole.inputs.items():
        assert same_bytes(without.inputs[name], figure)
    assert same_bytes(without.vanished_rows, whole.vanished_rows)
