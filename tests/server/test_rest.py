"""At rest the process holds what serving needs, and nothing else."""

import json
import signal
import sys

import pytest

from tests.server_process import running
from tests.waiting import wait_until

pytestmark = pytest.mark.sockets

SERVING = {
    *("service", "schemas", "tests"),
    *("pydantic", "pydantic_core", "pydantic_settings", "annotated_types", "typing_inspection"),
    *("fastapi", "annotated_doc", "starlette", "anyio", "opentelemetry"),
    *("uvicorn", "click", "httptools", "uvloop", "dotenv", "orjson", "prometheus_client"),
    "cython_runtime",
}
"""What is loaded beside torch, numpy, the standard library, and what these load by themselves."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    log = tmp_path_factory.mktemp("rest") / "log"
    with running(log, command=(sys.executable, "-m", "tests.server.resting")) as server:
        yield server


def told(server):
    """What the process tells of itself."""

    def lines():
        return [line for line in server.log.read_text().splitlines() if '"packages"' in line]

    before = len(lines())
    server.process.send_signal(signal.SIGUSR1)
    wait_until(lambda: len(lines()) > before)
    return json.loads(lines()[-1])


def others(found):
    """Packages that are no part of serving; the private ones belong to Python or to another's."""
    public = {name for name in found["packages"] if not name.startswith("_")}
    return public - SERVING - set(sys.stdlib_module_names)


def test_no_more_is_loaded_than_serving_needs(server):
    """What a rare request needs, matplotlib say, is not there before it."""
    assert others(told(server)) == set()


def test_of_torch_no_more_than_torch_itself_loads(server):
    """Neither its compilers nor its tools: they would take more than all the rest."""
    assert told(server)["torch"] == []


def test_what_was_loaded_is_not_walked_again(server):
    """The collector passes over what imports made, and collects what requests make."""
    found = told(server)
    assert found["collects"]
    assert found["frozen"] > 100_000


def test_a_first_picture_loads_what_draws_it(server):
    """A library that is not there at rest is there when it is first needed."""
    assert "matplotlib" not in told(server)["packages"]
    status, headers, _ = server.analyse({}, accept="image/png")
    assert (status, headers["content-type"]) == (200, "image/png")
    assert "matplotlib" in told(server)["packages"]
