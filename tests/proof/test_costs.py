import pytest

from tests.proof.costs import cost_of
from tests.proof.drawn import alone, together


@pytest.mark.parametrize("seed", range(1_000, 1_040))
def test_no_drawn_request_needs_more_than_estimated(seed):
    """Every mechanism, mask, normaliser, dtype, include and encoding, on one thread and on two."""
    cost = cost_of([alone(seed)])
    assert cost.peak_bytes <= cost.strict_bytes <= cost.estimated_bytes
    assert cost.answers_fit


@pytest.mark.parametrize("seed", range(1_000, 1_010))
def test_what_is_computed_together_needs_no_more_than_its_estimates(seed):
    """What all of them were let in with covers stacking them and telling them apart."""
    cost = cost_of(together(seed))
    assert 2 <= cost.jobs <= 6
    assert cost.peak_bytes <= cost.strict_bytes
    assert cost.answers_fit
