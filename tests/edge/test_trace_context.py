import json
import logging

import pytest
from starlette.datastructures import Headers

from service.api.trace_context import trace_fields
from service.logs import JsonLines
from tests.serving import serving

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
VALID = f"00-{TRACE}-{PARENT}-01"


@pytest.mark.parametrize(
    "given",
    [VALID, f"00-{TRACE}-{PARENT}-00", f"00-{TRACE}-{PARENT}-ff", f" {VALID}\t",
     f"01-{TRACE}-{PARENT}-01", f"cc-{TRACE}-{PARENT}-01-what-the-future-will-be-like"],
)  # fmt: skip
def test_a_valid_traceparent_is_read(given):
    """Version 00 exactly, later versions as far as they are alike."""
    assert trace_fields(Headers({"traceparent": given})) == {
        "trace_id": TRACE,
        "parent_id": PARENT,
    }


@pytest.mark.parametrize(
    "given",
    ["", "00", VALID[:-1], f"{VALID}0", f"{VALID}-", f"{VALID}-more", f"ff-{TRACE}-{PARENT}-01",
     f"00-{'0' * 32}-{PARENT}-01", f"00-{TRACE}-{'0' * 16}-01", VALID.upper(),
     VALID.replace("-", "_"), f"0-{TRACE}-{PARENT}-01", f"00-{TRACE[:-1]}-{PARENT}-01",
     f"00-{TRACE}-{PARENT}x-01", f"00-{TRACE[:-1]}g-{PARENT}-01", f"{VALID},{VALID}",
     f"cc-{TRACE}-{PARENT}-01.more", f"00-{TRACE}-{PARENT}-0\u0661", "x" * 10_000],
)  # fmt: skip
def test_a_malformed_traceparent_is_ignored(given):
    """Whatever else it is, it is as if there were none."""
    raw = Headers(raw=[(b"traceparent", given.encode("utf-8"))])
    assert trace_fields(raw) == {}


def test_two_are_none():
    """Which of two headers is meant is not guessed."""
    assert trace_fields(Headers(raw=[(b"traceparent", VALID.encode())] * 2)) == {}
    assert trace_fields(Headers()) == {}


class Kept(logging.Handler):
    """Keeps every line as it would be written where it is logged."""

    def __init__(self):
        super().__init__()
        self.setFormatter(JsonLines())
        self.lines = []

    def emit(self, record):
        self.lines.append(json.loads(self.format(record)))


@pytest.mark.anyio
async def test_id_and_trace_are_on_every_line_of_a_request(monkeypatch):
    """Whatever logs inside a request, on another thread too, has its id and trace."""
    logger, kept = logging.getLogger("service"), Kept()

    def prepare(*_, **__):
        logging.getLogger("service.anything").warning("on a thread that parses")
        return 1 / 0

    monkeypatch.setattr("service.api.attention.prepare", prepare)
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        async with serving() as client:
            logger.addHandler(kept)
            headers = {"X-Request-ID": "mine", "traceparent": VALID}
            await client.post("/v1/attention", json={}, headers=headers)
            logger.warning("outside")
    finally:
        logger.removeHandler(kept)
        logger.setLevel(level)
    *inside, outside = kept.lines
    assert {line["logger"] for line in inside} == {"service", "service.anything", "service.access"}
    for line in inside:
        assert (line["request_id"], line["trace_id"], line["parent_id"]) == ("mine", TRACE, PARENT)
    assert not {"request_id", "trace_id"} & outside.keys()
