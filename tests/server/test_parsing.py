"""What a fault in parsing is told as."""

import logging

from httptools import HttpParserCallbackError, HttpParserError, HttpParserInvalidURLError

from service.errors import HeadTooLarge, NotHttp
from service.server.parsing import told


def raised_in_a_callback(cause):
    fault = HttpParserCallbackError("`on_url` callback error")
    fault.__context__ = cause
    return fault


def test_a_refusal_is_told_as_it_is():
    """What was raised by our own counting is the refusal, from a callback or beside it."""
    refusal = HeadTooLarge("the headers", needed=2, allowed=1, setting="X")
    assert told(refusal) is told(raised_in_a_callback(refusal)) is refusal


def test_what_the_parser_says_is_repeated():
    """The parser's own sentence says what was found; it never holds the caller's bytes."""
    refusal = told(HttpParserError("Invalid method encountered"))
    assert isinstance(refusal, NotHttp)
    assert refusal.detail.endswith("found: Invalid method encountered")


def test_a_target_is_not_repeated():
    """The message of the parser of targets holds the target, and is not passed on."""
    refusal = told(raised_in_a_callback(HttpParserInvalidURLError("invalid url b'secret'")))
    assert "secret" not in refusal.detail
    assert "target" in refusal.detail


def test_a_fault_of_our_own_is_logged(caplog):
    """An error that nobody expected is not hidden behind the refusal."""
    with caplog.at_level(logging.ERROR, "uvicorn.error"):
        refusal = told(raised_in_a_callback(KeyError("forgotten")))
    assert isinstance(refusal, NotHttp)
    assert "forgotten" in caplog.text
