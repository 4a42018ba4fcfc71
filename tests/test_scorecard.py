"""The scorecard of the long proofs, and what reads their tools."""

import subprocess
from dataclasses import asdict

import pytest

from docs import scorecard as page
from tests.stress import hey, scorecard
from tests.stress.__main__ import RUNS
from tests.stress.figures import Figure

SUMMARY = """
Summary:
  Total:	2.0 secs

Latency distribution:
  50% in 0.0024 secs
  99% in 0.1500 secs

Status code distribution:
  [200]	120 responses
  [429]	30 responses

Error distribution:
  [3]	Post "http://127.0.0.1:1": EOF
  [4]	Post "http://127.0.0.1:1": dial tcp 127.0.0.1:1: connect: connection refused
"""
HELD, BROKEN = (
    Figure("a claim", "a bound", "a figure", holds=True),
    Figure("another | claim", "a bound", "a worse figure", holds=False),
)


def test_what_hey_prints_is_read():
    """Answers by status, requests without one, and latencies in milliseconds."""
    told = hey.read(SUMMARY)
    assert told.statuses == {200: 120, 429: 30}
    assert told.unanswered == 7
    assert told.milliseconds == {50: pytest.approx(2.4), 99: pytest.approx(150)}
    assert str(told) == "120 × 200, 30 × 429; 7 unanswered"
    assert hey.read("").statuses == {}


def test_hey_is_asked_for_a_constant_rate(monkeypatch):
    """The rate is that of all workers together."""
    asked = []

    def run(command, **_):
        asked.extend(command)
        return subprocess.CompletedProcess(command, 0, stdout=SUMMARY)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr("shutil.which", lambda _: "hey")
    hey.load("http://127.0.0.1:1", b"{}", rate=100, workers=8, seconds=2)
    assert asked[asked.index("-q") + 1] == "12.5000"
    assert asked[asked.index("-c") + 1] == "8"
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(FileNotFoundError, match="apt-get install hey"):
        hey.load("http://127.0.0.1:1", b"{}", rate=1, workers=1, seconds=1)


def test_a_run_is_noted_beside_the_others(monkeypatch, tmp_path):
    """A new run replaces its own figures, and those of no other."""
    monkeypatch.setattr(scorecard, "FILE", tmp_path / "scorecard.json")
    scorecard.note("one", [BROKEN], 3.4)
    scorecard.note("two", [HELD], 5.0)
    scorecard.note("one", [HELD], 3.6)
    kept = scorecard.read()
    assert list(kept) == ["one", "two"]
    assert kept["one"]["figures"] == [asdict(HELD)]
    assert kept["one"]["seconds"] == 4


def test_what_does_not_hold_is_shown_as_such():
    """The table says so in its line."""
    run = {"machine": "m", "versions": "v", "seconds": 1, "figures": [asdict(HELD), asdict(BROKEN)]}
    lines = page.shown({"one": run}).splitlines()
    assert lines[2] == "| a claim | a bound | a figure |"
    assert lines[3] == "| another \\| claim | a bound | **does not hold:** a worse figure |"
    assert lines[-1] == "On m, v."


def test_the_readme_shows_the_scorecard_as_it_is():
    """The table is made from the file; every run has been made, and everything holds."""
    text = page.README.read_text(encoding="utf-8")
    assert text == page.renewed(text)
    kept = scorecard.read()
    assert set(kept) == set(RUNS)
    assert all(figure["holds"] for run in kept.values() for figure in run["figures"])
