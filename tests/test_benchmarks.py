"""The benchmark measures what it says, on a shape small enough for a test."""

import base64
import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load

from benchmarks import core, laboratory, naive, results, wire, wrk
from benchmarks.compare import ratio
from service.attention.workers import Workers
from service.runtime import Runtime
from service.wire.calls import Call
from tests.builders import normal


def test_a_row_of_the_table_is_measured_after_a_check_against_float64() -> None:
    """The floor and the ratios of every way, by each pass that is here."""
    runtime = Runtime(torch.device("cpu"), Workers(1))
    cells = core.measure((1, 2, 11, 5), runtime, threads=1, rounds=3)
    assert {"floor", "formula", "naive", *core.passes(runtime)} == cells.keys()
    assert all(cells[name].low <= cells[name].median for name in core.passes(runtime))


def test_the_core_benchmark_prints_a_row_for_each_shape_and_option() -> None:
    """With the mean of the large shapes, and the formula beside the options."""
    runtime = Runtime(torch.device("cpu"), Workers(1))
    shape = (1, 2, 12, 8)
    rows = list(core.rows((core.SMALL, shape), runtime, threads=1, rounds=3))
    assert [row[0] for row in rows[:2]] == ["1×8×10×64", "1×2×12×8"]
    assert rows[-1][0].startswith("geometric mean")
    assert {len(row) for row in rows} == {6}
    options = list(core.option_rows(shape, runtime, threads=1, rounds=3))
    assert len(options) == len(core.options(shape)) + 2
    names = [name for name, _ in core.hidden(shape, runtime, rounds=3)]
    assert names == ["1×2×12×8, causal", "1×2×12×8, window of half the keys"]
    assert re.fullmatch(r"\d+\.\d\d s, -?\d+ MiB beside the inputs", core.longest(runtime, 12))


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


SMALL = {
    name: normal(1, 2, 3, 4, seed=s).numpy() for s, name in enumerate(("query", "key", "value"))
}


def test_every_way_reads_the_same_tensors() -> None:
    """Ours as a request, the others as three tensors or arrays."""
    for name, way in wire.readers(SMALL).items():
        found = way()
        if isinstance(found, Call):
            inputs = found.requests[0][1].inputs
            found = [inputs.query, inputs.key, inputs.value]
        parts = [found[n] for n in SMALL] if isinstance(found, dict) else found
        assert isinstance(parts, list)
        for part, expected in zip(parts, SMALL.values(), strict=True):
            assert np.array_equal(np.asarray(part).reshape(expected.shape), expected), name


def test_every_way_writes_the_output() -> None:
    """Ours beside the rest of the answer, as numbers, as base64 and as bytes."""
    written = {name: way() for name, way in wire.writers(SMALL).items()}
    found = {n: b"".join(w) if isinstance(w, list) else w for n, w in written.items()}
    answers = [json.loads(text) for n, text in found.items() if "safetensors" not in n]
    first = np.array(answers[0]["output"], np.float32)
    shown = base64.b64decode(answers[1]["output"]["data"])
    assert np.array_equal(np.frombuffer(shown, np.float32).reshape(first.shape), first)
    for answer in answers[2:]:
        np.testing.assert_allclose(answer["output"], first, rtol=1e-6)
    for name in ("this service, safetensors", "safetensors.torch.save"):
        data = found[name]
        assert isinstance(data, bytes)
        assert np.array_equal(load(data)["output"].numpy(), first), name


def test_a_table_is_printed_as_it_grows(capsys: pytest.CaptureFixture[str]) -> None:
    """Row by row, as Markdown."""
    kept = results.growing("What it is.", "a machine", ("a", "b"), iter([("1", "2"), ("3", "4")]))
    assert kept.rows == [("1", "2"), ("3", "4")]
    printed = capsys.readouterr().out
    assert printed.endswith("| a | b |\n| --- | --- |\n| 1 | 2 |\n| 3 | 4 |\n")
    assert "What it is.\nOn a machine; load " in printed


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
