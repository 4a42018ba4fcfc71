import asyncio
import json
import logging
import re
import sys
import warnings

import pytest

from service import logs
from service.logs import FIELDS, JsonLines, TextLines, bound

HOSTILE = ["a\nb", "a\r\nb", "\x1b[31mred", "a\x00b", "a\u2028b\x85c\x9bd", "\ud800", '"}{"',
           "\x7f", "🦥", 'x" level="error']  # fmt: skip
PRINTABLE = re.compile(r"[ -~]+")


def record(message, *args, level=logging.INFO, exc_info=None, **fields):
    made = logging.LogRecord("service.x", level, __file__, 1, message, args, exc_info)
    if fields:
        setattr(made, FIELDS, fields)
    return made


def fail(text):
    raise RuntimeError(text)


def failure(text):
    try:
        fail(text)
    except RuntimeError:
        return sys.exc_info()


def test_a_line_is_one_json_object():
    """Time in UTC, level, logger, message, and the fields of the event."""
    with bound({"request_id": "r"}):
        line = json.loads(JsonLines().format(record("%s: %d", "all", 3, status=200, ms=0.5)))
    time = line.pop("time")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", time)
    assert line == {
        "level": "info", "logger": "service.x", "message": "all: 3", "request_id": "r",
        "status": 200, "ms": 0.5,
    }  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_can_forge_a_json_line(text):
    """Message, field and exception come back as they were, from one line of printable ASCII."""
    made = record("said %s", text, exc_info=failure(text), field=text)
    line = JsonLines().format(made)
    assert PRINTABLE.fullmatch(line.replace("\x7f", ""))
    read = json.loads(line)
    assert read["message"] == f"said {text}"
    assert read["field"] == text
    assert f"RuntimeError: {text}" in read["exception"]
    assert read["exception"].startswith("Traceback")


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_can_forge_a_line_of_text(text):
    """For people too: only a traceback has lines of its own, and those are indented."""
    first, *rest = TextLines().format(record("said %s", text, field=text)).split("\n")
    assert rest == []
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u2028\ud800]", first)
    with bound({"request_id": "r"}):
        told = TextLines().format(record("failed", exc_info=failure(f"{text}\n2026 error x")))
    first, *rest = told.split("\n")
    assert "failed request_id=r" in first
    assert all(line.startswith("    ") for line in rest)
    assert any("RuntimeError" in line for line in rest)


def test_what_json_does_not_know_is_written_as_text():
    """An odd field or a huge number is no reason to lose a line."""
    line = json.loads(JsonLines().format(record("x", kind=ValueError, huge=2**70, of=float("inf"))))
    assert "ValueError" in line["kind"]
    assert line["huge"] == 2**70


async def told(queue, name):
    with bound({"request_id": name}):
        await queue.wait()
        return json.loads(JsonLines().format(record("x")))["request_id"]


def test_what_is_bound_is_bound_to_its_task():
    """Two requests at a time each have their own id on their lines."""

    async def both():
        gate = asyncio.Event()
        tasks = [asyncio.create_task(told(gate, name)) for name in ("one", "two")]
        await asyncio.sleep(0)
        gate.set()
        return await asyncio.gather(*tasks)

    assert asyncio.run(both()) == ["one", "two"]
    assert "request_id" not in json.loads(JsonLines().format(record("x")))


@pytest.fixture
def written(capsys):
    """What has been written to standard error; logging is left as it was before."""
    root, names = logging.getLogger(), ("service", "uvicorn", "uvicorn.error", "fastapi")
    before = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in names}
    yield lambda: capsys.readouterr().err
    logging.captureWarnings(capture=False)
    root.handlers[:], root.level = before
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.mark.parametrize(
    ("form", "terminal", "as_json"),
    [("auto", True, False), ("auto", False, True), ("json", True, True), ("text", False, False)],
)
def test_auto_is_text_on_a_terminal(written, monkeypatch, form, terminal, as_json):
    """A person at a terminal reads text, a collector JSON; either can be asked for."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    logs.configure("info", form)
    logging.getLogger("service").info("hello")
    line = written()
    assert line.startswith("{") is as_json
    assert "hello" in line


def test_the_level_is_the_services_own(written):
    """`debug` opens the service and its server, not every library; warnings are lines too."""
    logs.configure("debug", "json")
    logging.getLogger("service.x").debug("ours")
    logging.getLogger("uvicorn.error").debug("the server's")
    logging.getLogger("matplotlib").debug("a flood")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("look out", stacklevel=1)
    lines = [json.loads(line) for line in written().splitlines()]
    assert [line["logger"] for line in lines] == ["service.x", "uvicorn.error", "py.warnings"]
    assert "look out" in lines[-1]["message"]


def test_a_high_level_silences(written):
    """From `error` on nothing below is written, whoever says it."""
    logs.configure("error", "text")
    for name in ("service", "uvicorn.error", "other"):
        logging.getLogger(name).warning("no")
        logging.getLogger(name).error("yes")
    lines = written()
    assert lines.count("yes") == 3
    assert ": no" not in lines
