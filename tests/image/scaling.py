"""Two replicas: the same answers, and one goes on when the other dies."""

import json

from tests.image.answers import PATH, drawn
from tests.image.replicas import Replica
from tests.image.report import Report

_IDENTITY = "image-test"


def checks(first: Replica, second: Replica, report: Report) -> None:
    """The checks of two replicas; both serve afterwards."""
    with report.check("both replicas answer on their own ports") as line:
        addresses = {replica.address for replica in (first, second)}
        assert len(addresses) == 2, addresses
        line.detail = ", ".join(sorted(addresses))
    with report.check("both give the same bytes for the same request, times aside") as line:
        expected = document(first)
        assert document(second) == expected
        assert drawn(first) == drawn(second)
        line.detail = f"JSON of {len(expected):,} bytes, and a picture"
    with report.check("one is killed: the other answers"):
        second.kill_the_server()
        assert document(first) == expected
    with report.check("the killed one is started again by its restart policy") as line:
        line.detail = f"ready {second.wait_until_ready():.1f} s after its new start"
        assert second.restarts() == 1, f"{second.restarts()} restarts"
    with report.check("it gives the same bytes as before"):
        assert document(second) == expected


def document(replica: Replica) -> bytes:
    """An answer in JSON without what tells the time."""
    answer = replica.ask("POST", PATH, json={}, headers={"X-Request-ID": _IDENTITY})
    assert answer.status_code == 200, answer.text[:500]
    return json.dumps({k: v for k, v in answer.json().items() if k != "timing_ms"}).encode()
