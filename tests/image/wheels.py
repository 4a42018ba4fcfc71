"""Where the build finds torch: TORCH_INDEX, or an index made of the wheel that pip finds here."""

import functools
import http.server
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.image.command import Failed, run
from tests.image.compose import ROOT
from tests.image.report import Report


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def torch_index(place: Path, python: str, report: Report) -> Iterator[str]:
    """An address for the build argument TORCH_INDEX, for as long as the block runs.

    Empty where nothing better is known than the default index.
    """
    if given := os.environ.get("TORCH_INDEX", ""):
        report.note("torch comes from TORCH_INDEX")
        yield given
    elif local(place / "index" / "torch", python):
        report.note("torch comes from a wheel that this machine's pip found in its directories")
        with served(place / "index") as address:
            yield address
    else:
        report.note("torch comes from the default index: several gigabytes; see TORCH_INDEX")
        yield ""


def local(target: Path, python: str) -> bool:
    """Whether pip finds the pinned torch without an index; it then lies in `target`."""
    pinned = re.findall(r"^torch==\S+$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-index", "--no-deps"]
    wheels = ["--only-binary=:all:", "--python-version", python, "--dest", str(target)]
    try:
        run([*pip, *wheels, *pinned], timeout_s=300)
    except Failed:
        return False
    return True


@contextmanager
def served(directory: Path) -> Iterator[str]:
    """A package index on the loopback interface: a listing of files is one."""
    handler = functools.partial(_Quiet, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()
