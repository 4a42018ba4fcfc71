"""The table of attacks, each against one server that goes on serving."""

import time

import pytest

from tests.server.attacks import ATTACKS, SETTINGS
from tests.server.raw import exchange, problem
from tests.server_process import ERROR, WARNING, running

pytestmark = pytest.mark.sockets


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(tmp_path_factory.mktemp("server") / "log", **SETTINGS) as server:
        yield server


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_an_attack_is_answered_as_it_deserves(server, attack):
    """Every answer is the expected one, the connection is closed, and health is what it was."""
    found = exchange(server, *attack.steps)
    assert tuple(answer.status for answer in found) == attack.statuses
    if attack.slug is not None:
        document = problem(found[-1])
        assert document["type"] == f"/problems/{attack.slug}"
        if attack.limit is not None:
            assert f"ATTENTION_{attack.limit.upper()}" in document["detail"]
    began = time.monotonic()
    assert server.ask("GET", "/health/ready")[0] == 200
    assert time.monotonic() - began < 0.5


def test_refused_connections_say_that_they_close(server):
    """A refusal before the application is the connection's last answer, and says so."""
    (answer,) = exchange(server, b"nonsense\r\n\r\n")
    assert answer.headers["connection"] == "close"
    assert problem(answer)["instance"] == "/"


def test_a_refusal_keeps_the_callers_request_id(server):
    """The id that a caller gave is on the refusal too, and the path that was asked."""
    head = b"POST /v1/attention?x HTTP/1.1\r\nX-Request-ID: mine\r\nHost: x\r\nHost: y\r\n\r\n"
    (answer,) = exchange(server, head)
    document = problem(answer)
    assert (document["request_id"], document["instance"]) == ("mine", "/v1/attention")


def test_attacks_leave_no_error_in_the_log(server):
    """Whatever was sent was expected: nothing was logged as an error or a warning."""
    assert exchange(server, b"\r\n\0") != []
    log = server.log.read_text()
    assert '"problem":"malformed-request"' in log
    for word in ("Traceback", ERROR, WARNING, "Exception"):
        assert word not in log


def test_there_are_forty_attacks():
    """The table is as long as it was meant to be, and names each attack once."""
    assert len(ATTACKS) >= 40
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS)
