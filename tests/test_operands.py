import math

import pytest
import torch

from schemas.attention import AttentionRequest
from schemas.inputs import SeededInputs
from service.errors import DtypeMismatch, Invalid, NonFinite, ShapeMismatch
from service.extents import shape_of
from service.operands import draw, dtype_of, prepare
from service.plan import plan
from tests.builders import (
    CPU,
    analyse,
    everything,
    given_logits,
    given_weights,
    normal,
    qkv,
    same_bytes,
)

SIZES = {"batch": 2, "heads": 6, "kv_heads": 3, "query_length": 5, "key_length": 7}
DIMS = {"d_k": 11, "d_v": 13}


def seeded(**options):
    """Inputs of kind seeded."""
    return SeededInputs.model_validate(options)


def drawn(**options):
    """What they draw."""
    inputs = seeded(**options)
    return draw(inputs, shape_of(inputs))


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
def test_a_draw_is_three_lines_of_pytorch(seed):
    """Query, key and value are torch.randn from one generator, in that order, bit for bit."""
    found = drawn(seed=seed, **SIZES, **DIMS)
    g = torch.Generator().manual_seed(seed)
    query = torch.randn(2, 6, 5, 11, generator=g)
    key = torch.randn(2, 3, 7, 11, generator=g)
    value = torch.randn(2, 3, 7, 13, generator=g)
    assert list(found) == ["query", "key", "value"]
    for name, expected in (("query", query), ("key", key), ("value", value)):
        assert same_bytes(found[name], expected), name


def test_absent_extents_follow_the_others():
    """Key/value heads are the heads, the key length is the query's, d_v is d_k."""
    found = drawn(seed=3, batch=2, heads=3, query_length=5, d_k=7)
    g = torch.Generator().manual_seed(3)
    for name in ("query", "key", "value"):
        assert same_bytes(found[name], torch.randn(2, 3, 5, 7, generator=g)), name


def test_mean_and_standard_deviation_act_after_the_draw():
    """The draw is randn · std + mean, bit for bit."""
    found = drawn(seed=5, **SIZES, **DIMS, std=1.7, mean=-0.3)
    g = torch.Generator().manual_seed(5)
    assert same_bytes(found["query"], torch.randn(2, 6, 5, 11, generator=g) * 1.7 + -0.3)
    assert same_bytes(found["key"], torch.randn(2, 3, 7, 11, generator=g) * 1.7 + -0.3)


def test_self_attention_draws_the_query_only():
    """Key and value are the query itself, and nothing more is drawn."""
    found = drawn(seed=7, batch=2, heads=3, query_length=5, d_k=11, self_attention=True)
    expected = torch.randn(2, 3, 5, 11, generator=torch.Generator().manual_seed(7))
    assert all(same_bytes(found[name], expected) for name in ("query", "key", "value"))


@pytest.mark.parametrize("dtype", [None, "float16", "bfloat16", "float64"])
def test_one_tensor_in_two_places_stays_one_after_a_cast(dtype):
    """Self-attention, drawn or given by leaving out the key, is known as such in every dtype."""
    drawn = seeded(query_length=5, d_k=3, self_attention=True)
    given = AttentionRequest.model_validate({"inputs": qkv(normal(5, 3))}).inputs
    for inputs in (drawn, given):
        taken = prepare(inputs, shape_of(inputs), cast=dtype, device=CPU, nonfinite="refuse")
        assert taken.query is taken.key is taken.value


def test_a_draw_leaves_the_global_generator_alone():
    """What the process draws next does not depend on the analyses between."""
    torch.manual_seed(11)
    before = torch.get_rng_state()
    analyse(inputs={"kind": "seeded", **SIZES, **DIMS})
    assert torch.equal(torch.get_rng_state(), before)


def test_a_draw_is_cast_after_it():
    """Casting a draw gives the float32 numbers rounded, not other numbers."""
    inputs = seeded(seed=3, **SIZES, **DIMS)
    plain = prepare(inputs, shape_of(inputs), cast=None, device=CPU, nonfinite="refuse")
    for name, dtype in (("float16", torch.float16), ("bfloat16", torch.bfloat16)):
        cast = prepare(inputs, shape_of(inputs), cast=name, device=CPU, nonfinite="refuse")
        assert cast.answer_dtype == dtype
        assert same_bytes(cast.query, plain.query.to(dtype).float())
    wide = prepare(inputs, shape_of(inputs), cast="float64", device=CPU, nonfinite="refuse")
    assert same_bytes(wide.value, plain.value.double())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_computed_in_float32_and_cast_last(dtype):
    """The answer is that of the same numbers in float32, rounded once at the end."""
    operands = [normal(2, 3, n, d, seed=n).to(dtype) for n, d in ((5, 11), (7, 11), (7, 13))]
    include = ["output", "weights", "row_diagnostics"]
    half = analyse(inputs=qkv(*operands), include=include)
    single = analyse(inputs=qkv(*(t.float() for t in operands)), include=include)
    assert half.numerics.compute_dtype == "float32"
    for name, expected in everything(single).items():
        expected = expected.to(dtype) if name in ("output", "weights") else expected
        assert same_bytes(everything(half)[name], expected), name


def test_a_product_that_overflows_float16_is_no_overflow_here():
    """q·k at 64 dimensions with entries of 40 is 102,400, past float16; the scores still are."""
    query = torch.full((5, 64), 40.0, dtype=torch.float16)
    found = analyse(inputs=qkv(query, query[:3]), include=["output", "scores", "diagnostics"])
    assert found.tensors["output"].dtype == torch.float16
    assert found.tensors["scores"].eq(102_400).all()
    assert found.numerics.overflowed_logits == 0


def test_float64_stays_float64():
    """Nothing on the way rounds float64 inputs to float32."""
    query = normal(5, 3, dtype=torch.float64)
    found = analyse(inputs=qkv(query), include=["output", "scores"])
    assert found.numerics.compute_dtype == "float64"
    torch.testing.assert_close(found.tensors["scores"][0, 0], query @ query.T, rtol=1e-15, atol=0)
    assert found.tensors["output"].dtype == torch.float64


def test_a_cast_comes_first():
    """compute.dtype casts the inputs before anything is computed."""
    query = normal(5, 3, dtype=torch.float64)
    cast = analyse(inputs=qkv(query), compute={"dtype": "bfloat16"}, include=["output", "scores"])
    first = analyse(inputs=qkv(query.bfloat16()), include=["output", "scores"])
    for name, tensor in first.tensors.items():
        assert same_bytes(cast.tensors[name], tensor), name


@pytest.mark.parametrize("name", ["query", "key", "value"])
def test_a_cast_that_makes_infinities_is_refused(name):
    """A finite number past the end of compute.dtype is named, not turned into infinity."""
    inputs = qkv(normal(5, 3), normal(7, 3), normal(7, 3))
    inputs[name][2, 1], inputs[name][4, 0] = 65_504.0, -7e4
    with pytest.raises(NonFinite, match=rf"{name} holds 1 .*float16.*65504.*\[4, 0\]") as error:
        analyse(inputs=inputs, compute={"dtype": "float16"})
    assert error.value.pointer == "/compute/dtype"
    assert analyse(inputs=inputs, compute={"dtype": "bfloat16"}).numerics.nonfinite_inputs == 0
    counted = analyse(inputs=inputs, compute={"dtype": "float16", "nonfinite": "propagate"})
    assert counted.numerics.nonfinite_inputs == 1


def test_a_cast_never_forbids_a_key():
    """A finite logit that float16 would turn into −∞ is refused; one of −∞ passes as it is."""
    logits = torch.tensor([[0.0, -math.inf, -65_504.0]])
    found = analyse(inputs=given_logits(logits), compute={"dtype": "float16"})
    assert found.rows["visible_keys"].item() == 2
    logits[0, 2] = -1e5
    with pytest.raises(NonFinite, match=r"logits holds 1 .*\[0, 2\]"):
        analyse(inputs=given_logits(logits), compute={"dtype": "float16"})


def zeros(*shape):
    """A tensor of that shape."""
    return torch.zeros(shape)


@pytest.mark.parametrize(
    ("inputs", "said", "pointer"),
    [
        (qkv(zeros(5)), "rank 1", "/inputs/query"),
        (qkv(zeros(1, 1, 1, 5, 3)), "rank 5", "/inputs/query"),
        (qkv(zeros(5, 3), zeros(1, 7, 3)), "same rank", "/inputs/key"),
        (qkv(zeros(5, 3), zeros(7, 3), zeros(1, 7, 3)), "same rank", "/inputs/value"),
        (qkv(zeros(2, 5, 3), zeros(3, 7, 3)), "batch .* found 2 and 3", "/inputs/key"),
        (qkv(zeros(5, 3), zeros(7, 2)), "found d_q 3 and d_k 2", "/inputs"),
        (qkv(zeros(5, 3), zeros(7, 3), zeros(5, 3)), "length .* 7 and 5", "/inputs/value"),
        (
            qkv(zeros(1, 6, 5, 3), zeros(1, 3, 7, 3), zeros(1, 2, 7, 3)),
            "heads .* 3 and 2",
            "/inputs/value",
        ),
        (qkv(zeros(1, 6, 5, 3), zeros(1, 4, 7, 3)), "6 query heads and 4", "/inputs"),
        (qkv(zeros(0, 3)), "no axis may be empty", "/inputs"),
        (given_logits(zeros(7)), "rank 1", "/inputs/logits"),
        (given_logits(zeros(5, 7), zeros(5, 3)), "key length .* 7 and 5", "/inputs/value"),
        (given_logits(zeros(5, 7), zeros(1, 7, 3)), "same rank", "/inputs/value"),
        (given_weights(zeros(5, 0)), "no axis may be empty", "/inputs/weights"),
        ({"kind": "seeded", "heads": 6, "kv_heads": 4}, "6 query heads and 4", "/inputs"),
        ({"kind": "seeded", "d_q": 3, "d_k": 5}, "d_q 3 and d_k 5", "/inputs"),
        (
            {"kind": "seeded", "self_attention": True, "key_length": 5},
            "must be absent",
            "/inputs/self_attention",
        ),
    ],
)
def test_extents_that_do_not_fit_are_refused(inputs, said, pointer):
    """The refusal names both tensors, the axis and both extents, before anything is computed."""
    request = AttentionRequest.model_validate({"inputs": inputs})
    with pytest.raises(ShapeMismatch, match=said) as error:
        plan(request)
    assert error.value.pointer == pointer


def test_mixed_dtypes_need_a_cast():
    """Tensors of two dtypes are refused unless compute.dtype makes them one."""
    inputs = qkv(normal(5, 3), normal(7, 3).double(), normal(7, 3).double())
    with pytest.raises(DtypeMismatch, match="query float32, key float64, value float64"):
        analyse(inputs=inputs)
    found = analyse(inputs=inputs, compute={"dtype": "float32"})
    assert found.tensors["output"].dtype == torch.float32


def test_the_shape_is_resolved_without_the_tensors():
    """Extents follow from the request alone; heads group as query heads over key/value heads."""
    shape = shape_of(seeded(**SIZES, **DIMS))
    assert (shape.group, shape.rows, shape.logits) == (2, 2 * 6 * 5, 2 * 6 * 5 * 7)
    assert (shape.d_k, shape.d_v, shape.query_rank) == (11, 13, 4)
    given = AttentionRequest.model_validate({"inputs": given_logits(zeros(5, 7))}).inputs
    shape = shape_of(given)
    assert (shape.batch, shape.heads, shape.query_length, shape.key_length) == (1, 1, 5, 7)
    assert (shape.d_k, shape.d_v, shape.query_rank) == (None, None, 2)
    assert dtype_of(given, None) == torch.float32


def test_negative_weights_are_refused():
    """A weight below 0 is named with its place; −0 is a 0."""
    weights = torch.full((3, 5), 0.2)
    weights[0, 1] = -0.0
    analyse(inputs=given_weights(weights))
    weights[2, 3] = -0.1
    with pytest.raises(Invalid, match=r"found 1 negative values, the first at .*2, 3\]"):
        analyse(inputs=given_weights(weights))
    weights[2, 3] = math.nan
    with pytest.raises(NonFinite):
        analyse(inputs=given_weights(weights))


def test_given_weights_are_judged_over_their_sum_and_shown_as_given():
    """Diagnostics are those of the row over its sum; weights and output are as given."""
    weights = torch.softmax(normal(5, 7, dtype=torch.float64), -1)
    factors = torch.tensor([1.0, 0.5, 3.0, 1.0, 1.0 + 1e-12], dtype=torch.float64)
    value = normal(7, 3, seed=1, dtype=torch.float64)
    scaled = weights * factors.unsqueeze(-1)
    include = ["output", "weights", "row_diagnostics"]
    plain = analyse(inputs=given_weights(weights, value), include=include)
    found = analyse(inputs=given_weights(scaled, value), include=include)
    torch.testing.assert_close(found.tensors["weights"][0, 0], scaled, rtol=1e-13, atol=0)
    torch.testing.assert_close(
        found.tensors["output"][0, 0], scaled @ value, rtol=1e-12, atol=1e-14
    )
    for name, figures in plain.rows.items():
        torch.testing.assert_close(found.rows[name], figures, rtol=1e-11, atol=1e-13, msg=name)
    assert "logit_max" not in found.rows
    low, high, off = found.numerics.row_sums
    assert (low, high, off) == (pytest.approx(0.5), pytest.approx(3.0), 2)


def test_a_given_weight_of_zero_is_a_visible_key():
    """A zero takes part in n, so a one-hot row is saturated over all its keys, not over one."""
    weights = torch.zeros(3, 5)
    weights[0, 2], weights[1, :2] = 1.0, 0.5
    found = analyse(inputs=given_weights(weights), include=["row_diagnostics", "weights"])
    assert found.rows["visible_keys"].flatten().tolist() == [5, 5, 0]
    assert found.rows["normalized_entropy"][0, 0, 0] == 0
    assert found.rows["entropy"][0, 0, 1] == pytest.approx(math.log(2))
    assert found.rows["argmax"].flatten().tolist() == [2, 0, -1]
    assert torch.equal(found.tensors["weights"][0, 0], weights)
