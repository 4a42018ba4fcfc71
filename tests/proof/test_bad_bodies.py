from collections import Counter

import pytest

from service.errors import ServiceError
from tests.inference import INFER
from tests.proof.bad_bodies import ROWS, TABLES
from tests.proof.judging import judged

pytestmark = pytest.mark.anyio

OPERATIONS = {
    "/v1/attention",
    "/v1/attention/estimate",
    "/v1/softmax",
    "/v1/sweeps",
    "/v1/comparisons",
    INFER,
}
ELSEWHERE = {
    # Of the connection, the queue, the clock or the process, or 501: they have tests of their own.
    "body-timeout", "busy", "deadline-exceeded", "head-timeout", "head-too-large",
    "malformed-request", "not-ready", "out-of-memory", "too-many-connections",
    "unsupported-extension",
}  # fmt: skip

LIMITS = {
    f"ATTENTION_MAX_{limit}"
    for limit in ("ANSWER_BYTES", "BODY_BYTES", "ELEMENTS", "FLOPS", "GROUPS", "JSON_BYTES",
                  "JSON_DEPTH", "JSON_VALUES", "PEAK_BYTES", "SWEEP_POINTS")
}  # fmt: skip
"""Every bound on what one request may ask."""


@pytest.mark.timeout(300)
async def test_every_bad_request_is_answered_as_it_should_be(client):
    """Status, problem and size are right, no value is repeated, and health is 200 after each."""
    admission = client._transport.app.state.shared.engine.admission
    found = [await judged(client, row) for row in ROWS]
    assert {one.row.name: one.faults for one in found if one.faults} == {}
    assert {one.limit for one in found if one.status == 413} == LIMITS
    assert admission.waiting == admission.bytes_in_flight == 0


def test_the_table_has_rows_enough_and_none_twice():
    """At least 150 distinct requests, on every operation with a body, in both encodings."""
    assert len({row.sent for row in ROWS}) == len({row.name for row in ROWS}) == len(ROWS) >= 150
    paths = Counter(row.path for row in ROWS)
    assert all(paths[operation] >= 10 for operation in OPERATIONS)
    kinds = Counter(row.headers.get("content-type") for row in ROWS)
    assert kinds["application/json"] >= 150
    assert kinds["application/x-safetensors"] >= 100
    assert all(table.ROWS for table in TABLES)


def test_no_row_expects_a_fault_of_the_service():
    """Whatever a caller sends is a 4xx."""
    assert {row.status // 100 for row in ROWS} == {4}


def kinds_of(kind):
    return {found for child in kind.__subclasses__() for found in (child, *kinds_of(child))}


def test_every_problem_that_a_request_can_have_is_in_the_table():
    """What is in no row is of the connection, the queue, the clock or the process, or is 501."""
    slugs = {kind.slug for kind in kinds_of(ServiceError)} | {"not-found", "method-not-allowed"}
    assert {row.slug for row in ROWS} == slugs - ELSEWHERE
