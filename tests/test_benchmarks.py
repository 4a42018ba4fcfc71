"""The benchmark measures what it says, on a shape small enough for a test."""

import re
import subprocess
from pathlib import Path

import pytest
import torch

from benchmarks import core, laboratory, naive, wrk
from benchmarks.compare import ratio
from service.attention.workers import Workers
from service.runtime import Runtime


def test_a_row_of_the_table_is_measured_after_a_check_against_float64() -> None:
    """The floor and the ratios of every way, by each pass that is here."""
    runtime = Runtime(torch.device("cpu"), Workers(1))
    cells = core.measure((1, 2, 11, 5), runtime, threads=1, rounds=3)
    assert {"floor", "formula", "naive", *core.passes(runtime)} == cells.keys()
    assert all(cells[name].low <= cells[name].median for name in core.passes(runtime))


def test_the_core_benchmark_prints_a_row_for_each_shape_and_option() -> None:
    """With the mean of the large shapes, and the formula beside the options."""
    runtime = Runtime(torch.device("cpu"), Workers(1))
    rows = core.table((core.SMALL, (1, 2, 12, 8)), runtime, threads=1, rounds=3)
    assert [row.split(" |")[0] for row in rows[:2]] == ["| 1×8×10×64", "| 1×2×12×8"]
    assert rows[-1].startswith("| geometric mean")
    assert rows[-1].count("|") == 7
    options = core.option_rows((1, 2, 12, 8), runtime, threads=1, rounds=3)
    assert len(options) == len(core.options((1, 2, 12, 8))) + 2
    assert re.search(r"causal \d.*half the keys \d", core.hidden((1, 2, 12, 8), runtime, rounds=3))
    assert "12 × 12" in core.longest(runtime, 12)


def test_the_ratio_is_the_median_of_paired_ratios_within_its_interval() -> None:
    """Noise that both ways share cancels."""
    noise = [1.0, 5.0, 2.0, 9.0, 1.5]
    found = ratio([2 * second for second in noise], noise)
    assert (found.low, found.median, found.high) == (2.0, 2.0, 2.0)


def test_the_notebook_computes_the_same_figures() -> None:
    """The naive diagnostics agree with their definitions on a uniform row."""
    zeros = torch.zeros(1, 1, 3, 2)
    found = naive.diagnose(zeros, zeros, zeros)
    torch.testing.assert_close(found["max_weight"], torch.full((1, 1, 3), 1 / 3))
    torch.testing.assert_close(found["normalized_entropy"], torch.ones(1, 1, 3))


def test_the_laboratorys_ways_are_those_of_the_readme() -> None:
    """Each stands in the README's table, and what is timed as a picture is one."""
    workers = Workers(1)
    ways = laboratory.ways(Runtime(torch.device("cpu"), workers))
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    assert all(f"| {name} |" in readme for name in ways)
    drawn = ways["heat maps of 12 heads, 128 × 128"]()
    assert isinstance(drawn, bytes)
    assert drawn.startswith(b"\x89PNG")


WRK = """Running 3s test @ http://127.0.0.1:1/v1/attention
  Latency Distribution
     50%    1.50ms
     99%   20.00ms
  600 requests in 3.00s, 1.00MB read
  Socket errors: connect 1, read 2, write 0, timeout 4
  Non-2xx or 3xx responses: 5
Requests/sec:    199.50
"""


def test_what_wrk_prints_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Speed, median latency, and every request that was not answered as it should be."""
    done = subprocess.CompletedProcess([], 0, stdout=WRK)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    monkeypatch.setattr("shutil.which", lambda _: "wrk")
    found = wrk.load("http://127.0.0.1:1", b"{}", connections=2, seconds=1)
    assert found == wrk.Measured(per_second=199.5, failed=12, median_ms=1.5)


def test_without_wrk_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without wrk is told what to install."""
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(FileNotFoundError, match="apt-get install wrk"):
        wrk.load("http://127.0.0.1:1", b"{}", connections=1, seconds=1)
