"""The document is true: whatever it says of requests and answers, random requests find to be so."""

import pytest
from schemathesis.checks import CHECKS

from tests.proof.conformance import PHASES, conform

BUILT_IN = 14


@pytest.fixture(scope="module")
def report():
    """One run on everything, with few random requests; `make stress` sends many more."""
    return conform(8)


@pytest.mark.timeout(300)
def test_no_check_fails_on_any_operation(report):
    """In the examples, the coverage of every keyword of every schema, and random requests."""
    assert report.failures == []
    assert {phase: report.phases[phase] for phase in PHASES} == dict.fromkeys(PHASES, "success")


def test_every_check_is_made(report):
    """None is switched off, and the service's own check is among them."""
    assert report.checks.keys() == set(CHECKS.get_all_names())
    assert len(report.checks) > BUILT_IN
    assert min(report.checks.values()) > 5_000


def test_every_operation_is_called_and_answers(report):
    """In more encodings than one where it has them, pictures too, and never with a 5xx."""
    assert {label for label, _ in report.statuses} == report.operations
    assert not [status for _, status in report.statuses if status >= 500]
    assert {label for label, status in report.statuses if status == 200} >= {
        label for label in report.operations if not label.endswith("{slug}")
    }
    kinds = {label: {k for at, k in report.kinds if at == label} for label in report.operations}
    assert {"application/json", "application/x-safetensors"} <= kinds["POST /v1/softmax"]
    for label in ("POST /v1/attention", "POST /v1/comparisons", "POST /v1/sweeps"):
        assert {"application/json", "application/x-safetensors"} <= kinds[label]
        assert any(kind.startswith("image/") for kind in kinds[label])
