import math

import pytest
import torch

from service.theory.asymptotes import critical_sigma, entropy_limit, participation_limit
from service.theory.normal_logits import expected_entropy, expected_sum_of_squares

GROWING = torch.tensor([1e2, 1e4, 1e6, 1e9], dtype=torch.float64)


def approaches_zero(gaps):
    """Positive, and smaller at every step."""
    return bool((gaps > 0).all() and (gaps.diff() < 0).all())


def test_hand_values():
    """At n = e² the critical σ is 2; half of it leaves 3/2 nats, 5/4 of it Σp² = 1/5."""
    n = torch.tensor(math.exp(2), dtype=torch.float64)
    sigma = torch.tensor([0.0, 1.0, 2.5, 4.0], dtype=torch.float64)
    torch.testing.assert_close(critical_sigma(n).item(), 2.0)
    torch.testing.assert_close(entropy_limit(sigma, n).tolist(), [2.0, 1.5, 0.0, 0.0])
    torch.testing.assert_close(participation_limit(sigma, n).tolist(), [0.0, 0.0, 0.2, 0.5])


def test_the_entropy_comes_down_to_its_limit():
    """At fixed σ the entropy exceeds ln n − σ²/2, by ever less as n grows."""
    for sigma in torch.tensor([0.5, 1.0, 2.0, 2.5], dtype=torch.float64):
        assert approaches_zero(expected_entropy(sigma, GROWING) - entropy_limit(sigma, GROWING))


@pytest.mark.parametrize("ratio", [0.5, 0.9, 1.1, 2.0, 3.0])
def test_both_come_down_to_their_limits_at_a_fixed_share_of_the_critical_sigma(ratio):
    """At σ = ratio·σ_c, entropy per ln n and Σp² exceed their limits, by ever less as n grows."""
    sigma = ratio * critical_sigma(GROWING)
    entropy_gap = (expected_entropy(sigma, GROWING) - entropy_limit(sigma, GROWING)) / GROWING.log()
    assert approaches_zero(entropy_gap)
    squares = expected_sum_of_squares(sigma, GROWING)
    assert approaches_zero(squares - participation_limit(sigma, GROWING))


def test_condensed_entropy_stays_of_order_one():
    """Beyond σ_c the entropy rises with n towards ψ(1) − ψ(1 − σ_c/σ), not down to 0."""
    entropy = expected_entropy(critical_sigma(GROWING) / 0.3, GROWING)
    limit = torch.digamma(torch.tensor(1.0)) - torch.digamma(torch.tensor(0.7))
    assert approaches_zero(limit - entropy)
    assert entropy[-1] > 0.9 * limit


def test_far_off_at_the_sizes_of_attention():
    """At σ = 3 and n = 128 the entropy's limit is 0.35 where the expectation is 2.17."""
    sigma, n = torch.tensor(3.0), torch.tensor(128.0)
    assert round(entropy_limit(sigma, n).item(), 2) == 0.35
    assert round(expected_entropy(sigma, n).item(), 2) == 2.17


def test_invalid_arguments_have_no_limit():
    """A negative σ and fewer than two keys are answered with NaN, by every function."""
    sigma, n = torch.tensor([-1.0, 1.0, 0.0]), torch.tensor([8.0, 1.0, 0.0])
    assert entropy_limit(sigma, n).isnan().all()
    assert participation_limit(sigma, n).isnan().all()
    assert critical_sigma(n).isnan().tolist() == [False, True, True]
