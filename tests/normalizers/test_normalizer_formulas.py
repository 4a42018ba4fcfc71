"""Each normaliser against its closed cases, its laws, and numbers worked out by hand."""

import math
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.normalizers import NormalizerName
from service.attention.whole_rows import weigh_rows
from service.normalizers import NORMALIZERS, reference
from tests.builders import analyse, given_logits, normal

DOUBLE = torch.float64
LAWS = settings(max_examples=40, deadline=None)
LN2, LN3 = math.log(2), math.log(3)
each_normalizer = pytest.mark.parametrize("name", NORMALIZERS)


def weights(name, logits, value=None):
    """Weights of logits (…, keys) through a whole request."""
    found = analyse(
        inputs=given_logits(logits, value),
        mechanism={"normalizer": name},
        include=["weights", "output"],
    )
    return found.tensors["weights"].view(logits.shape)


def row(*numbers):
    """One row of float64 logits or weights."""
    return torch.tensor([numbers], dtype=DOUBLE)


@st.composite
def logit_rows(draw):
    """Three rows of float64 logits, often tied, some keys hidden; each row sees one at least."""
    keys, seed = draw(st.integers(1, 19)), draw(st.integers(0, 2**20))
    steps, spread = draw(st.sampled_from([(1, 0.5), (3, 5.0), (240, 0.001), (240, 0.02)]))
    shift = draw(st.sampled_from([0.0, -3.0, 100.0, 1e4]))
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(-steps, steps + 1, (3, keys), generator=generator).double() * spread
    hidden = torch.rand(3, keys, generator=generator) < draw(st.sampled_from([0.0, 0.3, 0.9]))
    hidden[torch.arange(3), torch.randint(0, keys, (3,), generator=generator)] = False
    return (logits + shift).masked_fill(hidden, -math.inf)


def test_every_normalizer_of_the_contract_is_in_the_table_and_has_a_formula():
    """Names on the wire, members of the table and readable formulas are the same set."""
    assert set(get_args(NormalizerName)) == set(NORMALIZERS)
    assert all(callable(getattr(reference, name)) for name in NORMALIZERS)
    assert all(member.description.name == name for name, member in NORMALIZERS.items())


# softmax: e^ln3 : e^0 = 3 : 1. softmax_one: 3, 1 and the null key's 1, over 5; then 1/(1 + 1),
# and 1/2, 2 and 1 over 7/2. sigmoid: 3/(1 + 3), 1/2, (1/3)/(1 + 1/3); 2/(1 + 2).
HAND = {
    "softmax": [((LN3, 0.0), (0.75, 0.25)), ((7.0, 7.0, 7.0, 7.0), (0.25, 0.25, 0.25, 0.25))],
    "softmax_one": [((LN3, 0.0), (0.6, 0.2)), ((0.0,), (0.5,)), ((-LN2, LN2), (1 / 7, 4 / 7))],
    # τ = (0.5 + 0 − 1)/2 = −0.25 over the first two, −1 is below it. Over three keys τ would be
    # (3 + 2.5 + 2 − 1)/3 = 13/6 > 2, so that 2 is outside: τ = (5.5 − 1)/2 = 2.25.
    "sparsemax": [((0.5, 0.0, -1.0), (0.75, 0.25, 0.0)), ((3.0, 2.5, 2.0), (0.75, 0.25, 0.0))],
    # Halves 0.7 and 0.5: τ = −0.1 gives 0.8² + 0.6² = 1. Gap 2 or more: one-hot.
    "entmax15": [((1.4, 1.0), (0.64, 0.36)), ((2.0, 0.0, -1.0), (1.0, 0.0, 0.0))],
    "sigmoid": [((LN3, 0.0, -LN3), (0.75, 0.5, 0.25)), ((LN2,), (2 / 3,))],
}


@each_normalizer
def test_a_case_on_paper(name):
    """The weights are the numbers worked out beside the table; a member without any fails."""
    for logits, expected in HAND[name]:
        torch.testing.assert_close(weights(name, row(*logits)), row(*expected), rtol=0, atol=1e-15)


@LAWS
@given(logits=logit_rows(), name=st.sampled_from(sorted(NORMALIZERS)))
def test_weights_are_the_readable_formula(logits, name):
    """Bisection for the threshold, or the plain formula, gives the same weights."""
    expected = getattr(reference, name)(logits)
    torch.testing.assert_close(weights(name, logits), expected, rtol=1e-10, atol=2e-12)


@LAWS
@given(logits=logit_rows(), name=st.sampled_from(sorted(NORMALIZERS)))
def test_a_row_on_its_own_has_the_weights_of_the_pass(logits, name):
    """Rows that are weighed outside the pass get the same weights."""
    seen = logits != -math.inf
    shown = logits.masked_fill(~seen, 0.0)[None]
    found = weigh_rows(shown, seen[None], NORMALIZERS[name])[0]
    torch.testing.assert_close(found, weights(name, logits), rtol=1e-10, atol=2e-12)


@LAWS
@given(logits=logit_rows(), name=st.sampled_from(sorted(NORMALIZERS)))
def test_row_sums(logits, name):
    """Rows sum to 1, of softmax_one to less, of sigmoid to at most the number of keys."""
    found = weights(name, logits)
    total, n = found.sum(-1), (logits != -math.inf).sum(-1)
    assert (found >= 0).all()
    if name == "sigmoid":
        assert ((total > 0) & (total <= n)).all()
    elif name == "softmax_one":
        assert (total <= 1 + 1e-14).all()
        moderate = logits.amax(-1) < 30
        assert (total[moderate] < 1).all()
    else:
        torch.testing.assert_close(total, torch.ones(3, dtype=DOUBLE), rtol=0, atol=1e-12)


@LAWS
@given(logits=logit_rows(), name=st.sampled_from(sorted(NORMALIZERS)))
def test_weights_keep_the_order_of_the_logits(logits, name):
    """A larger logit never gets the smaller weight, and equal logits equal ones."""
    ordered, order = logits.sort(-1)
    found = weights(name, logits).gather(-1, order)
    assert (found.diff(dim=-1) >= -1e-15).all()
    tied = ordered.diff(dim=-1) == 0
    assert not (found.diff(dim=-1)[tied].abs() > 1e-15).any()


@LAWS
@given(logits=logit_rows(), shift=st.sampled_from([-7.0, 0.25, 512.0]))
def test_a_common_shift_changes_only_those_with_an_origin(logits, shift):
    """softmax, sparsemax and entmax15 see differences; softmax_one falls or rises with a shift."""
    for name in ("softmax", "sparsemax", "entmax15"):
        torch.testing.assert_close(
            weights(name, logits + shift), weights(name, logits), rtol=1e-9, atol=1e-11, msg=name
        )
    before, after = (weights("softmax_one", x).sum(-1) for x in (logits, logits + shift))
    assert ((after - before) * math.copysign(1, shift) >= -1e-14).all()


@pytest.mark.parametrize("n", [1, 2, 3, 17])
def test_equal_logits_give_equal_weights(n):
    """1/n for those that sum to 1, 1/(n + e^-s) beside a null key, σ(s) for each alone."""
    s = 0.7
    logits = torch.full((2, n), s, dtype=DOUBLE)
    expected = dict.fromkeys(("softmax", "sparsemax", "entmax15"), 1 / n)
    expected |= {"softmax_one": 1 / (n + math.exp(-s)), "sigmoid": 1 / (1 + math.exp(-s))}
    for name, weight in expected.items():
        want = torch.full((2, n), weight, dtype=DOUBLE)
        torch.testing.assert_close(weights(name, logits), want, rtol=1e-14, atol=0, msg=name)


GAPS = torch.linspace(-3, 3, 121, dtype=DOUBLE)
PAIRS = torch.stack([GAPS, torch.zeros_like(GAPS)], -1)


def test_sparsemax_of_two_keys_is_the_hard_sigmoid():
    """Sparsemax of (t, 0) is clamp((t + 1)/2, 0, 1) (Martins and Astudillo 2016, section 2.3)."""
    first = ((GAPS + 1) / 2).clamp(0, 1)
    found = weights("sparsemax", PAIRS)
    torch.testing.assert_close(found, torch.stack([first, 1 - first], -1), rtol=0, atol=1e-15)
    assert torch.equal((found > 0).all(-1), GAPS.abs() < 1)


def test_entmax15_of_two_keys_has_its_closed_form():
    """With h = t/2: (h/2 + sqrt(2 − h²)/2)² for |h| < 1, else one-hot.

    From (h − τ)² + τ² = 1: τ = (h − sqrt(2 − h²))/2, and the first weight is (h − τ)²; the second
    leaves the support where τ = 0, at |h| = 1.
    """
    half = GAPS / 2
    inside = ((half + (2 - half.square()).clamp(min=0).sqrt()) / 2).square()
    first = torch.where(half >= 1, 1.0, torch.where(half <= -1, 0.0, inside))
    found = weights("entmax15", PAIRS)
    torch.testing.assert_close(found, torch.stack([first, 1 - first], -1), rtol=0, atol=1e-14)
    assert torch.equal((found > 1e-14).all(-1), GAPS.abs() < 2)


def test_softmax_one_is_softmax_beside_a_null_key():
    """A key of logit 0 and value 0 in a softmax gives the weights and the output of softmax_one."""
    logits, value = 3 * normal(2, 3, 5, 7, dtype=DOUBLE), normal(2, 3, 7, 11, seed=1, dtype=DOUBLE)
    null = torch.nn.functional.pad
    include = ["output", "weights"]
    beside = analyse(
        inputs=given_logits(null(logits, (0, 1)), null(value, (0, 0, 0, 1))), include=include
    ).tensors
    found = analyse(
        inputs=given_logits(logits, value),
        mechanism={"normalizer": "softmax_one"},
        include=include,
    ).tensors
    torch.testing.assert_close(found["output"], beside["output"], rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(found["weights"], beside["weights"][..., :-1], rtol=1e-13, atol=0)


def test_sparsemax_is_the_nearest_point_of_the_simplex():
    """No vertex lies at an obtuse angle: (s − p)·(e_j − p) ≤ 0 for every j."""
    logits = 2 * normal(5, 7, dtype=DOUBLE)
    found = weights("sparsemax", logits)
    residual = logits - found
    assert (residual - (residual * found).sum(-1, keepdim=True) <= 1e-14).all()


def test_entmax15_maximises_its_objective():
    """p·s + H_1.5(p), H_1.5 = (Σp − Σp^1.5)/0.75, is no larger at 1,000 other distributions."""
    logits = normal(1, 5, dtype=DOUBLE)

    def objective(p):
        return (p * logits).sum(-1) + (1 - p.pow(1.5).sum(-1)) / 0.75

    generator = torch.Generator().manual_seed(1)
    best = weights("entmax15", logits)
    others = torch.rand(1000, 5, dtype=DOUBLE, generator=generator).log().neg()
    others = others / others.sum(-1, keepdim=True)
    near = best + 1e-3 * (others - best)
    for candidates in (others, near):
        assert (objective(candidates) <= objective(best) + 1e-14).all()


@pytest.mark.parametrize("size", [1e2, 1e4, 1e30])
@each_normalizer
def test_large_logits_neither_overflow_nor_lose_the_row(name, size):
    """One key far above the others gets 1 (with sigmoid every key on the right side of 0)."""
    logits = torch.tensor([[size, 0.0, -size], [-size, size, 0.0]])
    expected = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    if name == "sigmoid":
        expected = expected.masked_fill(logits == 0, 0.5)
    torch.testing.assert_close(weights(name, logits), expected, rtol=1e-6, atol=1e-30)
