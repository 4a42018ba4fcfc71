"""schemathesis with many random requests of every operation: the document is true."""

import time

from tests.proof.conformance import PHASES, conform
from tests.stress.figures import Figure

EXAMPLES = 400


def run() -> list[Figure]:
    """Some six minutes."""
    began = time.monotonic()
    report = conform(EXAMPLES)
    for told in report.failures[:20]:
        print(told)
    broken = sum(count for (_, status), count in report.statuses.items() if status >= 500)
    complete = all(report.phases.get(phase) == "success" for phase in PHASES)
    called = {label for label, _ in report.statuses}
    return [
        Figure(
            "schemathesis on every operation, a check that fails",
            f"0, in {', '.join(PHASES)}, up to {EXAMPLES:,} random requests of each operation",
            f"{len(report.failures)} of {report.checks.total():,} checks on {report.requests:,} "
            f"requests to {len(called)} operations; {time.monotonic() - began:.0f} s",
            not report.failures and complete and called == report.operations,
        ),
        Figure("5xx to a request of schemathesis", "0", str(broken), broken == 0),
    ]
