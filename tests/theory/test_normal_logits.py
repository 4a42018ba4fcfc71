import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from service.theory import normal_logits, smooth_mean
from service.theory.normal_logits import (
    MAX_KEYS,
    MAX_SIGMA,
    expected_entropy,
    expected_sum_of_squares,
    mean_over_rows,
)


def f64(*values):
    """The values as a float64 tensor."""
    return torch.tensor(values, dtype=torch.float64)


def both(sigma, n):
    """(E H, E Σp²) as numbers."""
    sigma, n = f64(sigma), f64(n)
    return expected_entropy(sigma, n).item(), expected_sum_of_squares(sigma, n).item()


def test_one_key_has_all_the_weight():
    """With n = 1 the entropy is 0 and Σp² is 1, exactly, at every σ."""
    for sigma in (0.0, 1e-3, 1.0, 60.0):
        assert both(sigma, 1.0) == (0.0, 1.0)


def test_equal_logits_share_the_weight():
    """At σ = 0 the entropy is ln n and Σp² is 1/n, exactly."""
    for n in (2.0, 3.0, 128.0, 1e6):
        assert both(0.0, n) == (math.log(n), 1 / n)


@pytest.mark.parametrize("sigma", [1e-3, 0.3, 0.999, 1.0, 3.0, 6.5, 20.0, 60.0, 1e3, 1e4])
def test_two_keys_agree_with_a_quadrature_over_their_difference(sigma):
    """With n = 2 the row depends on the difference d ~ N(0, 2σ²) alone; both agree to 1e-10."""
    step = min(0.05, sigma / 10)
    d = step * torch.arange(min(45.0, 14 * sigma) / step, dtype=torch.float64)
    weight = 2 * step * torch.exp(-(d**2) / (4 * sigma**2)) / math.sqrt(4 * math.pi * sigma**2)
    weight[0] /= 2
    p, q = torch.sigmoid(d), torch.sigmoid(-d)
    entropy = torch.log1p(torch.exp(-d)) + d * q
    assert both(sigma, 2.0) == pytest.approx(
        ((weight * entropy).sum().item(), 1 - (weight * 2 * p * q).sum().item()), rel=1e-10
    )


@pytest.mark.parametrize("sigma", [0.2, 1.0, 4.0, 12.0])
@pytest.mark.parametrize("n", [2.0, 17.0, 1e4])
def test_entropy_and_sum_of_squares_are_tied_by_steins_lemma(sigma, n):
    """E H = E ln Z − σ²(1 − E Σp²), with E ln Z = ∫(e^{−t} − φⁿ)/t dt from a plain double sum."""
    y = torch.arange(-30 - 7 * sigma, 5 + 7 * sigma, 0.125, dtype=torch.float64)
    z = torch.arange(-9, 9, min(0.2, 0.2 / sigma), dtype=torch.float64)
    normal = torch.exp(-z * z / 2)
    phi = torch.exp(-torch.exp(y[:, None] + sigma * z)) @ (normal / normal.sum())
    log_partition = ((torch.exp(-y.exp()) - phi**n).sum() * 0.125).item()
    entropy, squares = both(sigma, n)
    assert entropy == pytest.approx(log_partition - sigma**2 * (1 - squares), rel=1e-8)


def test_small_sigma_follows_the_expansion():
    """E H = ln n − σ²(1 − 1/n)/2 and n·E Σp² = 1 + σ²(1 − 1/n), up to terms in σ⁴."""
    sigma = 1e-3
    for n in (2.0, 50.0, 1e6, 1e9):
        entropy, squares = both(sigma, n)
        variance = sigma**2 * (1 - 1 / n)
        assert math.log(n) - entropy == pytest.approx(variance / 2, rel=1e-4)
        assert n * squares - 1 == pytest.approx(variance, rel=1e-4)


def z_scores(sigma, n, rows, seed):
    """How far the means over drawn rows lie from (E H, E Σp²), in their standard errors."""
    generator = torch.Generator().manual_seed(seed)
    logits = sigma * torch.randn(rows, n, dtype=torch.float64, generator=generator)
    p = logits.softmax(-1)
    statistics = torch.stack((-torch.special.xlogy(p, p).sum(-1), p.square().sum(-1)))
    error = statistics.std(-1) / math.sqrt(rows)
    return ((statistics.mean(-1) - f64(*both(sigma, n))) / error).tolist()


def test_drawn_rows_have_the_expected_entropy_and_sum_of_squares():
    """Over 18 pairs (σ, n) every |z| is ≤ 4 and each statistic's mean z² is within χ² bounds."""
    pairs = [(sigma, n) for sigma in (0.5, 1.0, 2.0, 5.0, 10.0, 20.0) for n in (2, 16, 128)]
    z = f64(*(z_scores(*pair, 20_000, seed) for seed, pair in enumerate(pairs)))
    assert z.abs().max() <= 4
    # Wilson and Hilferty's normal approximation of χ²/k, at four standard deviations.
    k = len(pairs)
    low, high = ((1 - 2 / (9 * k) + s * math.sqrt(2 / (9 * k))) ** 3 for s in (-4, 4))
    assert ((low < z.square().mean(0)) & (z.square().mean(0) < high)).all()


def test_very_many_keys():
    """Sixty-four drawn rows of 100,000 keys agree within four standard errors."""
    for sigma in (1.0, 4.0):
        assert max(abs(z) for z in z_scores(sigma, 100_000, 64, 0)) <= 4


SIGMA = st.floats(0, 60)
KEYS = st.floats(math.log(2), math.log(1e6)).map(lambda x: max(math.exp(x), 2.0))


@settings(max_examples=80, deadline=None)
@given(sigma=SIGMA, step=st.floats(1e-3, 5), n=KEYS)
def test_larger_logits_sharpen(sigma, step, n):
    """With growing σ the entropy falls and Σp² rises, strictly."""
    wide, narrow = both(sigma, n), both(sigma + step, n)
    assert wide[0] > narrow[0]
    assert wide[1] < narrow[1]


@settings(max_examples=80, deadline=None)
@given(sigma=SIGMA, n=KEYS, factor=st.floats(1.001, 10))
def test_more_keys_spread(sigma, n, factor):
    """With growing n the entropy rises and Σp² falls, strictly."""
    few, many = both(sigma, n), both(sigma, n * factor)
    assert few[0] < many[0]
    assert few[1] > many[1]


@settings(max_examples=80, deadline=None)
@given(sigma=st.floats(0, MAX_SIGMA), n=st.floats(2, MAX_KEYS))
def test_bounds(sigma, n):
    """Entropy lies in [0, ln n], Σp² in [1/n, 1], also where both are all but reached."""
    entropy, squares = both(sigma, n)
    assert 0 <= entropy <= math.log(n)
    assert 1 / n <= squares <= 1


def test_rounding_does_not_step_over_the_bounds():
    """Where σ is too small to tell from 0, and where it is huge, the bounds still hold exactly."""
    n = torch.arange(1, 1000, dtype=torch.float64)
    for sigma in (1e-12, 1e-9, 1e4):
        entropy, squares = expected_entropy(f64(sigma), n), expected_sum_of_squares(f64(sigma), n)
        assert ((entropy >= 0) & (entropy <= n.log())).all()
        assert ((squares >= 1 / n) & (squares <= 1)).all()


@pytest.mark.parametrize("seam", [1.0, 12.0, 18.0, 60.0])
def test_no_step_where_the_grid_changes(seam):
    """Just below and above a σ where another rule or step takes over, the values agree to 1e-9."""
    for n in (2.0, 128.0, 1e6, 1e9):
        below, above = both(seam * (1 - 1e-12), n), both(seam * (1 + 1e-12), n)
        assert below == pytest.approx(above, rel=1e-9)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 5.0, 6.0, 11.9, 30.0, 60.0, 1e4])
def test_a_finer_and_wider_grid_shows_the_same(sigma, monkeypatch):
    """Half the step on a longer grid changes no value by more than 1e-10 of itself."""
    n = f64(2, 3, 16, 128, 1e4, 1e6, 1e9)
    coarse = expected_entropy(f64(sigma), n), expected_sum_of_squares(f64(sigma), n)
    monkeypatch.setattr(normal_logits, "_table", normal_logits._table.__wrapped__)
    monkeypatch.setattr(normal_logits, "_STEP", normal_logits._STEP / 2)
    monkeypatch.setattr(normal_logits, "_TAIL", normal_logits._TAIL + 8)
    fine = expected_entropy(f64(sigma), n), expected_sum_of_squares(f64(sigma), n)
    torch.testing.assert_close(fine, coarse, rtol=1e-10, atol=0)


@pytest.mark.parametrize(
    ("sigma", "n"),
    [
        *((sigma, 8) for sigma in (-0.1, 1.01e4, math.nan, math.inf)),
        *((1, n) for n in (-1, 0, 1.5, 1.01e9, math.nan, math.inf)),
        (0, -1),
    ],
)
def test_outside_the_valid_range_the_answer_is_nan(sigma, n):
    """Outside 0 ≤ σ ≤ 1e4, n = 1 or 2 ≤ n ≤ 1e9 every answer is NaN, its neighbours' are not."""
    for function in (expected_entropy, expected_sum_of_squares):
        assert function(f64(1, sigma), f64(8, n)).isnan().tolist() == [False, True]
    assert all(math.isnan(mean) for mean in mean_over_rows(f64(1, sigma), f64(8, n)))


def test_arguments_broadcast_and_keep_their_places(monkeypatch):
    """Every element of a broadcast answer is that of its own σ and n, in whatever chunks."""
    monkeypatch.setattr(normal_logits, "_CHUNK", 2)
    sigma, n = torch.tensor([[3.0], [0.0], [1.0]]), torch.tensor([7, 2, 1, 2, 5])
    entropy, squares = expected_entropy(sigma, n), expected_sum_of_squares(sigma, n)
    assert entropy.shape == squares.shape == (3, 5)
    for i in range(3):
        for j in range(5):
            expected = both(sigma[i, 0].item(), float(n[j]))
            assert (entropy[i, j].item(), squares[i, j].item()) == pytest.approx(
                expected, rel=1e-13
            )


def test_empty_and_scalar_arguments():
    """No elements give no answers, and a scalar a scalar."""
    assert expected_entropy(torch.ones(0), torch.ones(0)).shape == (0,)
    assert expected_entropy(torch.tensor(1.0), torch.tensor(4.0)).shape == ()


def drawn_rows(rows, scale, widest, seed=0):
    """σ as of ‖q‖ with d_k = 4, n log-uniform from 2 to `widest`."""
    generator = torch.Generator().manual_seed(seed)
    sigma = scale * torch.randn(rows, 4, generator=generator).norm(dim=1)
    n = torch.exp(torch.rand(rows, generator=generator) * math.log(widest / 2)).mul(2).floor()
    return sigma, n.clamp(2, widest)


@pytest.mark.parametrize(("scale", "widest"), [(0.5, 128), (1.0, 2), (8.0, 2048), (20.0, 1e6)])
@pytest.mark.parametrize("condense", [False, True])
def test_mean_over_rows_is_the_mean_of_direct_values(scale, widest, condense, monkeypatch):
    """Interpolated, and condensed into cells too, the means agree with direct ones to 1e-5."""
    monkeypatch.setattr(smooth_mean, "_FEW_POINTS", 0 if condense else 1 << 20)
    sigma, n = drawn_rows(499, scale, widest)
    direct = (
        expected_entropy(sigma, n).mean().item(),
        expected_sum_of_squares(sigma, n).mean().item(),
    )
    assert mean_over_rows(sigma, n) == pytest.approx(direct, rel=1e-5)


def test_mean_over_a_quarter_million_rows():
    """Over 250,000 rows of 20 different pairs the means agree with the weighted direct ones."""
    sigma, n = drawn_rows(20, 5.0, 4096)
    times = torch.arange(1, 21) * 1191
    weight = times / times.sum(dtype=torch.float64)
    direct = [(f(sigma, n) * weight).sum() for f in (expected_entropy, expected_sum_of_squares)]
    rows = sigma.repeat_interleave(times).view(2, -1), n.repeat_interleave(times).view(2, -1)
    assert mean_over_rows(*rows) == pytest.approx([d.item() for d in direct], rel=1e-5)


def test_distinct_rows_share_few_evaluations():
    """Two thousand different σ are served by at most 129 evaluated ones."""
    normal_logits._table.cache_clear()
    mean_over_rows(*drawn_rows(2000, 5.0, 4096))
    assert normal_logits._table.cache_info().misses <= 129


def test_the_whole_valid_range_has_a_mean():
    """Rows at the corners of the valid range do not fall out of it by rounding."""
    sigma, n = torch.meshgrid(f64(0, MAX_SIGMA), f64(2, MAX_KEYS), indexing="ij")
    direct = [f(sigma, n).mean().item() for f in (expected_entropy, expected_sum_of_squares)]
    rows = (x.repeat(11, 7) for x in (sigma, n))
    assert mean_over_rows(*rows) == pytest.approx(direct, rel=1e-5)


def test_mean_where_two_values_share_a_cell_at_the_edge():
    """The worst case of the cells, two σ in the first cell and one far off, still holds to 1e-5."""
    width = math.log1p(60) / smooth_mean._CELLS_X
    values, times = torch.expm1(f64(0, 0.95 * width, math.log1p(60))), (158_000, 42_000, 1)
    weight = f64(*times) / sum(times)
    for n in (128.0, 1e6):
        direct = [
            (f(values, f64(n)) * weight).sum().item()
            for f in (expected_entropy, expected_sum_of_squares)
        ]
        rows = values.repeat_interleave(torch.tensor(times))
        assert mean_over_rows(rows, f64(n)) == pytest.approx(direct, rel=1e-5)


def test_mean_of_few_or_equal_rows_is_direct():
    """Up to sixteen rows, or any number of equal ones, have the direct value to rounding."""
    sigma, n = drawn_rows(16, 3.0, 512)
    direct = (
        expected_entropy(sigma, n).mean().item(),
        expected_sum_of_squares(sigma, n).mean().item(),
    )
    assert mean_over_rows(sigma, n) == direct
    equal = mean_over_rows(torch.full((3, 1009), 2.5), torch.tensor(37))
    assert equal == pytest.approx(both(2.5, 37.0), rel=1e-13)


def test_mean_is_undefined_without_rows_or_with_a_row_of_one_key():
    """No rows, or a row with fewer than two keys, has no mean: the caller excludes such rows."""
    assert all(math.isnan(mean) for mean in mean_over_rows(torch.ones(0), torch.ones(0)))
    assert all(math.isnan(mean) for mean in mean_over_rows(torch.ones(99), torch.arange(1, 100)))
    assert not any(math.isnan(m) for m in mean_over_rows(torch.ones(98), torch.arange(2, 100)))
