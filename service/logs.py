"""What is logged: one line an event, as JSON or as text, that nothing a caller sends can forge."""

import json
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal

import orjson

Form = Literal["auto", "json", "text"]
FIELDS = "fields"
"""`logger.info(…, extra={FIELDS: {…}})` adds fields of its own to a line."""
_OURS = ("service", "uvicorn", "uvicorn.error", "fastapi")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_bound: ContextVar[Mapping[str, str]] = ContextVar("bound", default={})  # noqa: B039 - only read


@contextmanager
def bound(fields: Mapping[str, str]) -> Iterator[None]:
    """Put these fields on every line that is logged inside the block, by whomever."""
    token = _bound.set(fields)
    try:
        yield
    finally:
        _bound.reset(token)


def configure(level: str, form: Form) -> None:
    """Log to standard error from now on; `auto` is text on a terminal and JSON elsewhere.

    Other libraries are heard from `warning` on.
    """
    as_json = form == "json" or (form == "auto" and not sys.stderr.isatty())
    wanted = logging.getLevelNamesMapping()[level.upper()]
    # By hand: dictConfig closes every handler there is, and with absl's handler standard error.
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if as_json else TextLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(logging.WARNING, wanted))
    for name in _OURS:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.setLevel(wanted)
        logger.propagate = True
    logging.captureWarnings(capture=True)


class JsonLines(logging.Formatter):
    """One JSON object a line, in ASCII: no character of a message can end or repaint it."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        told = _told(self, record)
        if told:
            line["exception"] = told
        return _written(line)


class TextLines(logging.Formatter):
    """The same for people: a traceback follows its line, indented."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, and the lines of the traceback."""
        fields = "".join(f" {name}={_value(v)}" for name, v in _fields(record).items())
        head = f"{_time(record)} {record.levelname.lower():8} {record.name}: "
        told = _told(self, record)
        below = "".join(f"\n    {_printable(line)}" for line in told.split("\n")) if told else ""
        return head + _printable(record.getMessage()) + fields + below


def _written(line: dict[str, Any]) -> str:
    """In ASCII by the fast writer; by the other what that one would not escape, or refuses."""
    try:
        told = orjson.dumps(line, default=str)
    except orjson.JSONEncodeError:
        return json.dumps(line, default=str)
    return told.decode() if told.isascii() else json.dumps(line, default=str)


def _time(record: logging.LogRecord) -> str:
    """RFC 3339 in UTC."""
    told = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    return told.replace("+00:00", "Z")


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {**_bound.get(), **getattr(record, FIELDS, {})}


def _told(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = []
    if record.exc_info and record.exc_info[0] is not None:
        parts.append(formatter.formatException(record.exc_info))
    if record.stack_info:
        parts.append(formatter.formatStack(record.stack_info))
    return "\n".join(parts)


def _printable(text: str) -> str:
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _value(value: Any) -> str:
    """As in JSON; without quotes where nothing is lost."""
    told = json.dumps(value, default=str)
    plain = isinstance(value, str) and re.fullmatch(r"[\w./{}:-]+", value, re.ASCII)
    return str(value) if plain else told
