import logging

import pytest

from service.api.unexpected import Unexpected
from tests.serving import scope_of, send_to, serving

pytestmark = pytest.mark.anyio


async def never():
    pytest.fail("nothing is to be read")


async def test_a_fault_is_answered_and_logged_once(monkeypatch, caplog):
    """One problem to the caller, one traceback in the log; nothing is raised to the server."""
    monkeypatch.setattr("service.api.attention.prepare", lambda *_, **__: 1 / 0)
    messages = [{"type": "http.request", "body": b"{}", "more_body": False}]

    async def receive():
        return messages.pop()

    async with serving() as client:
        sent = await send_to(client.app, scope_of(), receive)
    assert [m["type"] for m in sent] == ["http.response.start", "http.response.body"]
    assert sent[0]["status"] == 500
    assert len([r for r in caplog.records if r.exc_info]) == 1


async def test_a_fault_amid_an_answer_ends_it(caplog):
    """Where the status is sent already nothing follows: the connection ends, the log says why."""

    async def broken(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise RuntimeError("amid")

    with caplog.at_level(logging.ERROR, "service"):
        sent = await send_to(Unexpected(broken), scope_of(), never)
    assert [m["type"] for m in sent] == ["http.response.start", "http.response.body"]
    assert len([r for r in caplog.records if "amid" in caplog.text and r.exc_info]) == 1
