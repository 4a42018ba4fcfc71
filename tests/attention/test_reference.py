import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it

from service.attention.reference import attention, softmax
from tests.builders import normal

DOUBLE = torch.float64
BATCH, HEADS, KV_HEADS, QUERIES, KEYS, D_K, D_V = 2, 6, 3, 5, 7, 11, 13


def operands():
    """Query, key and value, each axis of another size."""
    query = normal(BATCH, HEADS, QUERIES, D_K, seed=1, dtype=DOUBLE)
    key = normal(BATCH, KV_HEADS, KEYS, D_K, seed=2, dtype=DOUBLE)
    return query, key, normal(BATCH, KV_HEADS, KEYS, D_V, seed=3, dtype=DOUBLE)


def some_visible(*shape):
    """A random boolean mask that leaves every row a key."""
    visible = normal(*shape, seed=4) > 0
    visible[..., 0] = True
    return visible


@pytest.mark.parametrize("scale", [1 / math.sqrt(D_K), 1.0, 0.0, -0.7])
@pytest.mark.parametrize(
    "mask",
    [
        None,
        some_visible(QUERIES, KEYS),
        some_visible(BATCH, 1, QUERIES, KEYS),
        some_visible(BATCH, HEADS, QUERIES, KEYS),
        normal(BATCH, HEADS, QUERIES, KEYS, seed=5, dtype=DOUBLE),
        normal(1, HEADS, 1, KEYS, seed=6, dtype=DOUBLE),
    ],
    ids=["none", "allowed 2", "allowed batch", "allowed 4", "bias 4", "bias head"],
)
def test_the_reference_is_torchs_attention(mask, scale):
    """In float64 the formula agrees with F.scaled_dot_product_attention, masked and grouped."""
    query, key, value = operands()
    boolean = mask is not None and mask.dtype == torch.bool
    masks = {"visible": mask} if boolean else {"bias": mask}
    output, *_ = attention(query, key, value, scale=scale, **masks)
    expected = F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=scale, enable_gqa=True
    )
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)


def test_a_row_without_a_visible_key_is_zero():
    """A fully masked row has weights and output 0, and the rows beside it are untouched."""
    query, key, value = operands()
    visible = some_visible(BATCH, 1, QUERIES, KEYS)
    visible[1, :, 2] = False
    output, weights, logits, _ = attention(query, key, value, scale=0.3, visible=visible)
    assert not output[1, :, 2].any()
    assert not weights[1, :, 2].any()
    assert (logits[1, :, 2] == -math.inf).all()
    beside = torch.ones(BATCH, QUERIES, dtype=torch.bool)
    beside[1, 2] = False
    sums = weights.sum(-1).transpose(1, 2)[beside]
    torch.testing.assert_close(sums, torch.ones_like(sums))


def test_a_row_without_a_visible_key_has_no_gradient():
    """Neutralised before the normaliser, a fully masked row passes a gradient of 0 and not NaN."""
    logits = torch.full((3, KEYS), -math.inf, dtype=DOUBLE)
    logits[1] = normal(KEYS, seed=7, dtype=DOUBLE)
    logits.requires_grad_()
    (softmax(logits) * normal(3, KEYS, seed=8, dtype=DOUBLE)).sum().backward()
    assert not logits.grad[[0, 2]].any()
    assert logits.grad[1].abs().min() > 0


def test_a_case_by_hand():
    """Logits ln 1 and ln 2 weigh 1/3 and 2/3; a third key, forbidden, counts for nothing."""
    query = torch.tensor([[[[2.0, 0.0]]]], dtype=DOUBLE)
    key = torch.tensor([[[[0.0, 5.0], [math.log(2), -3.0], [9.0, 0.0]]]], dtype=DOUBLE)
    value = torch.tensor([[[[3.0], [9.0], [1e6]]]], dtype=DOUBLE)
    visible = torch.tensor([True, True, False])
    output, weights, logits, scores = attention(query, key, value, scale=0.5, visible=visible)
    torch.testing.assert_close(weights.flatten().tolist(), [1 / 3, 2 / 3, 0.0])
    torch.testing.assert_close(output.flatten().tolist(), [7.0])
    torch.testing.assert_close(logits.flatten().tolist(), [0.0, math.log(2), -math.inf])
    torch.testing.assert_close(scores.flatten().tolist(), [0.0, 2 * math.log(2), 18.0])


def test_the_softcap_comes_after_the_scale_and_before_bias_and_mask():
    """Logits are c·tanh(scale·score/c) + bias, and a forbidden key stays at −∞."""
    query = torch.tensor([[[[1.0]]]], dtype=DOUBLE)
    key = torch.tensor([[[[6.0], [-4.0], [2.0]]]], dtype=DOUBLE)
    bias = torch.tensor([0.25, -math.inf, 8.0], dtype=DOUBLE)
    _, weights, logits, _ = attention(query, key, key, scale=0.5, softcap=2.0, bias=bias)
    expected = [2 * math.tanh(1.5) + 0.25, -math.inf, 2 * math.tanh(0.5) + 8]
    torch.testing.assert_close(logits.flatten().tolist(), expected)
    assert weights.flatten()[1] == 0
