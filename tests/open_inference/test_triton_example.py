"""The example runs as it stands and shows what it says."""

import pytest

from examples import triton
from tests.server_process import running

pytestmark = pytest.mark.sockets


def test_the_example_prints_a_transcript(tmp_path, capsys):
    """Health, models, an answer of a real model, half precision, an error, statistics."""
    with running(tmp_path / "log") as server:
        triton.main(f"127.0.0.1:{server.port}")
    told = capsys.readouterr().out
    for number, title in enumerate(triton.STEPS, start=1):
        assert f"{number}. {title}\n" in told
    assert "live True, ready True" in told
    assert "id layer 0, output float32 (2, 12, 19, 32)" in told
    assert "output: FP16 [2, 12, 19, 32], 29,184 bytes" in told
    assert "status 422: parameter softcap: " in told
    assert "2 answered, 1 refused" in told
    (largest,) = (line for line in told.splitlines() if line.startswith("max_weight"))
    assert "  1.00  " in largest
