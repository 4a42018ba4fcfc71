"""500 random requests, alone and together: what they hold is never more than was estimated."""

from itertools import count
from statistics import median

from tests.proof.costs import Cost, cost_of
from tests.proof.drawn import alone, together
from tests.stress.figures import Figure

ALONE, REQUESTS = 350, 500
SEED = 20_250


def run() -> list[Figure]:
    """About a minute."""
    costs = [cost_of([alone(SEED + number)]) for number in range(ALONE)]
    seeds = count(SEED)
    while sum(cost.jobs for cost in costs) < REQUESTS:
        costs.append(cost_of(together(next(seeds))))
    requests, batches = sum(cost.jobs for cost in costs), sum(cost.jobs > 1 for cost in costs)
    return [_peaks(costs, requests, batches), _answers(costs, requests)]


def _peaks(costs: list[Cost], requests: int, batches: int) -> Figure:
    within = sum(cost.jobs for cost in costs if cost.peak_bytes <= cost.estimated_bytes)
    ratios = [cost.ratio for cost in costs]
    return Figure(
        "random requests that hold at their peak no more bytes than estimated",
        f"all of at least {REQUESTS}",
        f"{within} of {requests}, {requests - ALONE} of them computed together in {batches}; "
        f"without the fixed allowance estimate ÷ peak is at least {min(ratios):.2f}, "
        f"in the median {median(ratios):.1f}",
        within == requests >= REQUESTS and min(ratios) >= 1,
    )


def _answers(costs: list[Cost], requests: int) -> Figure:
    fit = sum(cost.jobs for cost in costs if cost.answers_fit)
    return Figure(
        "their answers no longer than estimated",
        f"all of at least {REQUESTS}",
        f"{fit} of {requests}",
        fit == requests,
    )
