"""The service beside its peers: what is asked, checked, computed and shown. Nothing is timed."""

import io
import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks import results
from benchmarks.compare import Ratio
from benchmarks.peers.attend import attend
from benchmarks.results import Table
from benchmarks.serving import environments, load, report, requests, targets
from benchmarks.serving import process as processes
from benchmarks.serving.cases import CASES, check, inputs
from benchmarks.serving.contenders import CONTENDERS, ROOT, SCRIPTS, Contender
from benchmarks.serving.load import Lane, Rounds, lanes, speed
from benchmarks.serving.process import NotStarted, running
from benchmarks.serving.requests import Answer, Request
from benchmarks.serving.rest import Rest
from benchmarks.wrk import Measured
from docs import benchmarks as page
from tests.serving import serving

SERVICE = CONTENDERS[0]
BY_NAME = {contender.name: contender for contender in CONTENDERS}
SMALL = list(lanes(SERVICE, "SD"))


def answer_of(response):
    return Answer(response.status_code, response.headers, response.content, 0.0)


@pytest.mark.anyio
@pytest.mark.parametrize("lane", SMALL, ids=lambda lane: f"{lane.way} {lane.case.name}")
async def test_the_service_answers_what_it_is_asked(lane):
    """Each way to ask and to read is checked as a run does it, on the application itself."""
    async with serving() as client:
        response = await client.post(
            lane.request.path, content=lane.request.body, headers=dict(lane.request.headers)
        )
    assert response.status_code == lane.request.expects, response.text
    found = lane.request.read(answer_of(response))
    check(lane.case, found)
    found["entropy"] = found["entropy"] + 0.1
    with pytest.raises(AssertionError, match="entropy"):
        check(lane.case, found)
    with pytest.raises(AssertionError, match="only"):
        check(lane.case, {"entropy": found["entropy"]})


@pytest.mark.anyio
async def test_json_over_the_limit_is_told_of_binary():
    """What stands in the table as a refusal is one, with the way out."""
    (lane,) = (lane for lane in lanes(SERVICE, "L") if lane.way == "JSON")
    async with serving() as client:
        response = await client.post(
            lane.request.path, content=lane.request.body, headers=dict(lane.request.headers)
        )
    assert lane.refused
    assert response.status_code == lane.request.expects
    assert "safetensors" in response.text


def attended(case):
    """What a peer computes, by the name of each tensor."""
    tensors = (load_torch(array) for array in inputs(case).values())
    return {name: t.numpy() for name, t in attend(*tensors, weights=case.weights).items()}


def load_torch(array):
    return torch.from_numpy(array.copy())


def as_lists(found):
    return {}, json.dumps({name: array.tolist() for name, array in found.items()}).encode()


def as_bytes(found):
    return {}, b"".join(array.tobytes() for array in found.values())


def as_files(found):
    file = io.BytesIO()
    np.savez(file, **found)
    return {}, file.getvalue()


def as_inference(found):
    outputs = [
        {
            "name": n,
            "datatype": "FP32",
            "shape": a.shape,
            "parameters": {"binary_data_size": a.nbytes},
        }
        for n, a in found.items()
    ]
    head = json.dumps({"outputs": outputs}).encode()
    return {"inference-header-content-length": str(len(head))}, head + as_bytes(found)[1]


@pytest.mark.parametrize("case", CASES[:3], ids=lambda case: case.name)
@pytest.mark.parametrize(
    ("name", "written"),
    [("fastapi", as_lists), ("starlette", as_bytes), ("triton", as_inference)],
)
def test_what_peers_answer_is_read(case, name, written):
    """Each encoding is read back as the tensors that were written, and checked."""
    for lane in lanes(BY_NAME[name], case.name):
        headers, body = written(attended(case))
        check(case, lane.request.read(Answer(200, headers, body, 0.0)))


def test_files_in_multipart_are_read():
    """An archive of arrays comes back; three files went."""
    (lane,) = lanes(BY_NAME["bentoml"], "L")
    assert lane.request.body.count(b"filename=") == 3
    found = {"output": np.zeros((1, 2), np.float32)}
    read = lane.request.read(Answer(200, *as_files(found), 0.0))
    np.testing.assert_array_equal(read["output"], found["output"])


def test_every_contender_has_a_script_that_compiles_and_exact_versions():
    """An environment is made of pins alone, with the torch of this project."""
    torch_here = next(
        line
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line.startswith("torch==")
    )
    for contender in CONTENDERS[1:]:
        lines = environments.requirements(contender.environment).read_text().splitlines()
        assert all("==" in line for line in lines)
        assert torch_here in lines
    for script in SCRIPTS.glob("*.py"):
        compile(script.read_text(encoding="utf-8"), script, "exec")
    for contender in CONTENDERS:
        named = [part for part in contender.command if part.endswith(".py")]
        assert all(Path(part).exists() for part in named)


def test_an_environment_is_complete_or_said_not_to_be(monkeypatch, tmp_path):
    """The mark is set last; what pip said is told."""
    monkeypatch.setattr(environments, "BENCH", tmp_path)
    monkeypatch.setenv("TORCH_INDEX", "an-index")
    ran = []

    def run(command, **_):
        ran.append(command)
        (tmp_path / "fastapi").mkdir(exist_ok=True)
        return subprocess.CompletedProcess(command, int(len(ran) > 3), "", "no such version")

    monkeypatch.setattr(subprocess, "run", run)
    environments.install("fastapi")
    assert (tmp_path / "fastapi" / ".installed").exists()
    assert ran[1][-3:-1] == ("--index-url", "an-index")
    assert ran[2][-2] == "-r"
    with pytest.raises(environments.NotInstalled, match="no such version"):
        environments.install("fastapi")
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(environments.NotInstalled, match="it needs"):
        environments.install("pytriton")


STILL = SimpleNamespace(port=1, ended=lambda: False)
REQUEST = Request("/", b"", {}, None)
LANE = Lane(SERVICE, "JSON", CASES[0], REQUEST)
REFUSED = Lane(SERVICE, "JSON", CASES[3], Request("/", b"", {}, None, expects=413))


@pytest.mark.parametrize(
    ("alone", "connections", "seconds", "expected"),
    [(0.1, 8, 3, 200.0), (0.2, 1, 3, 50.0), (2.0, 1, 5, 50.0)],
)
def test_a_slow_server_is_asked_by_one_connection(
    monkeypatch, alone, connections, seconds, expected
):
    """What would not be through twice counts by its median latency, in time enough for two."""
    asked = {}

    def measure(_url, _body, **options):
        asked.update(options)
        return Measured(200.0, 0, 20.0)

    monkeypatch.setattr(load, "load", measure)
    assert speed(LANE, STILL, 8, 3, alone) == expected
    assert (asked["connections"], asked["seconds"]) == (connections, seconds)
    monkeypatch.setattr(load, "load", lambda *_, **__: Measured(0.0, 0, 0.0))
    monkeypatch.setattr(load, "ask", lambda *_: Answer(200, {}, b"", 4.0))
    assert speed(LANE, STILL, 8, 3, 2.0) == 0.25
    monkeypatch.setattr(load, "load", lambda *_, **__: Measured(1.0, 3, 1.0))
    with pytest.raises(RuntimeError, match="3 requests failed"):
        speed(LANE, STILL, 8, 3, alone)


def test_rounds_leave_out_who_fails(monkeypatch):
    """A failure is told and ends only its own lane; a refusal is looked at and not timed."""
    other = Lane(CONTENDERS[1], "JSON", CASES[0], REQUEST)
    still = dict.fromkeys(("service", "fastapi"), STILL)
    asked = []
    body = b"send safetensors"
    monkeypatch.setattr(load, "ask", lambda *_: Answer(200, {}, body, 0.01))
    speeds = iter([10.0, 20.0, 11.0])

    def measure(lane, *_):
        asked.append(lane)
        if lane is other and asked.count(other) == 2:
            raise RuntimeError("no answer")
        return next(speeds)

    monkeypatch.setattr(load, "speed", measure)
    rounds = Rounds(still, [LANE, REFUSED, other])
    assert rounds.run(2, 8, 1) == {LANE.key: [10.0, 11.0]}
    assert rounds.failed[other.key] == "failed: RuntimeError: no answer"
    body = b"no"
    assert REFUSED.key in Rounds(still, [REFUSED]).failed


def test_answers_are_checked_after_the_load_too(monkeypatch):
    """What a server answers wrongly by then has no figure; one that is gone has crashed."""
    process = SimpleNamespace(port=1, ended=lambda: False)
    right = True

    def read(_):
        assert right, "another output"
        return {}

    lane = Lane(SERVICE, "JSON", CASES[0], Request("/", b"", {}, read))
    monkeypatch.setattr(load, "ask", lambda *_: Answer(200, {}, b"", 0.01))
    monkeypatch.setattr(load, "check", lambda *_: None)
    monkeypatch.setattr(load, "speed", lambda *_: 10.0)
    rounds = Rounds({"service": process}, [lane])
    assert rounds.run(1, 8, 1) == {lane.key: [10.0]}
    right = False
    assert rounds.run(1, 8, 1) == {}
    assert rounds.failed[lane.key].startswith("failed: AssertionError: another output")
    process.ended = lambda: True
    assert Rounds({"service": process}, [lane]).failed[lane.key].startswith("crashed: ")


def test_a_request_with_another_status_is_told(monkeypatch):
    """The start of what came is in the message."""

    class Connection:
        def __init__(self, *_, **__): ...

        def connect(self): ...

        def request(self, *_): ...

        def close(self): ...

        def getresponse(self):
            self.status = 500
            return self

        def read(self):
            return b"broken"

    monkeypatch.setattr(requests.http.client, "HTTPConnection", Connection)
    with pytest.raises(RuntimeError, match=r"500 .*broken"):
        requests.ask(1, REQUEST)


def test_a_contender_that_ends_at_once_is_told_with_its_log():
    """Nothing of it is left running."""
    broken = Contender("broken", "", None, ("-c", "raise SystemExit('no port')"), "/", {})
    with pytest.raises(NotStarted, match="no port"), running(broken):
        pass


@pytest.mark.sockets
def test_a_contender_starts_and_ends(monkeypatch):
    """Its memory is seen, and ended it leaves no process."""
    command = ("-m", "http.server", "{port}", "--bind", "127.0.0.1")
    with running(Contender("files", "", None, command, "/", {})) as process:
        assert process.start_s > 0
        assert process.memory_mib() > 1
        monkeypatch.setattr(processes, "_FALL_S", 0.2)
        assert not process.ended()
        pid = process.leader.pid
    assert process.ended()
    assert process.leader.returncode is not None
    assert pid not in dict(processes._sessions())


def test_targets_are_reached_by_their_medians():
    """Paired by round; a peer that is not there has no line."""
    found = {
        ("service", "JSON", "S"): [800.0, 900.0, 1000.0],
        ("fastapi", "JSON", "S"): [100.0, 100.0, 100.0],
        ("service", "safetensors", "M"): [10.0],
        ("triton", "Open Inference", "M"): [10.0],
    }
    rows = targets.of_load(found)
    assert rows[0] == ("S, JSON, over plain FastAPI", "at least 8 ×", "9.00 (8.00–10.00) ×", "yes")
    assert rows[1][0].startswith("M, safetensors, over Triton")
    assert rows[1][3] == "**no**"
    assert len(rows) == 2
    (whole,) = targets.of_whole({"inside": [10.0, 10.0], "safetensors": [12.0, 12.0]})
    assert whole[1:] == ("at most 1.25 ×", "1.20 (1.20–1.20) ×", "yes")
    assert targets.difference([3.0, 5.0], [1.0, 1.0]) == Ratio(3.0, 2.0, 4.0)
    assert targets.difference([3.0, 5.0, 9.0], [1.0, 1.0, 1.0]) == Ratio(4.0, 2.0, 8.0)


def test_the_table_has_a_line_for_each_way():
    """Medians, what was refused, what failed, what was not asked, and the figures at rest."""
    found = {("service", "JSON", "S"): [100.0, 300.0, 200.0], ("service", "JSON", "M"): [4.25]}
    rests = {"service": Rest([1.0, 3.0], [200.0, 210.0], [0.5, 0.5])}
    failed = {
        ("service", "safetensors", "S"): "failed: ValueError: no\n  number",
        ("service", "safetensors", "M"): "crashed: OSError: reset",
    }
    table = report.speeds([SERVICE], found, failed, rests, "a machine", 8)
    assert table.rows[0] == (
        "this service: JSON", "200", "–", "4.2", "413, told of binary", "2.0", "205",
    )  # fmt: skip
    assert table.rows[1][1:5] == ("failed", "–", "crashed", "–")
    assert "service, safetensors, S failed: ValueError: no number." in table.about
    assert table.figures["service | JSON | M"] == [4.25]
    assert "3 interleaved rounds" in table.about


def test_tables_are_kept_beside_those_of_other_names(tmp_path):
    """A new one replaces its own only."""
    file = tmp_path / "benchmarks.json"
    first, second = (Table(about, "m", ("a",), [("1",)]) for about in ("first", "second"))
    results.note({"core": first, "targets": first}, file)
    results.note({"targets": second}, file)
    kept = results.read(file)
    assert (kept["core"]["about"], kept["targets"]["about"]) == ("first", "second")
    assert results.read(tmp_path / "none.json") == {}


def test_the_readme_shows_the_benchmarks_as_they_are():
    """The tables are made from the file; every contender, case and target is in it."""
    text = page.README.read_text(encoding="utf-8")
    assert text == page.renewed(text)
    kept = results.read()
    assert sorted(page.places(text)) == sorted(kept)
    for name in ("service", "service, one connection"):
        lines = [row[0] for row in kept[name]["rows"]]
        ways = [f"{contender.title}: {way}" for contender in CONTENDERS for way in contender.ways]
        assert lines == ways
        expected = {
            " | ".join(lane.key)
            for contender in CONTENDERS
            for lane in lanes(contender, "SDML")
            if not lane.refused
        }
        assert expected <= set(kept[name]["figures"])
    assert len(kept["targets"]["rows"]) == 19
