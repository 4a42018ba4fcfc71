"""SIGTERM: what is in flight is finished, and the container ends well and in time."""

import time
from concurrent.futures import ThreadPoolExecutor

from tests.image.answers import PATH
from tests.image.replicas import Replica
from tests.image.report import Report

# Some seconds of work on two cores, in little memory: blocks.
_LONG = {
    "inputs": {"kind": "seeded", "heads": 6, "query_length": 24_576, "d_k": 64},
    "include": ["diagnostics"],
}
_HEAD_START_S = 0.7


def checks(replica: Replica, other: Replica, report: Report) -> None:
    """The checks of a replica that is stopped while it works; it does not run afterwards."""
    with report.check("SIGTERM while a request is computed: it is answered with 200") as line:
        with ThreadPoolExecutor(1) as pool:
            request = pool.submit(replica.ask, "POST", PATH, json=_LONG)
            time.sleep(_HEAD_START_S)
            assert not request.done(), "answered before the signal: the request is too small"
            stopped_s = replica.stop()
            answer = request.result()
        assert answer.status_code == 200, answer.text[:500]
        line.detail = (
            f"{answer.json()['timing_ms']['compute'] / 1000:.1f} s of work, "
            f"{_HEAD_START_S} s of it before the signal"
        )
    with report.check("the container ends with 0, within its grace") as line:
        state = replica.state()
        line.detail = f"{stopped_s:.1f} s of {replica.service.grace_s}"
        assert (state["ExitCode"], state["Running"]) == (0, False), f"exit {state['ExitCode']}"
        assert stopped_s < replica.service.grace_s
        assert not state["OOMKilled"]
    with report.check("the other replica still answers"):
        assert other.ask("POST", PATH, json={}).status_code == 200
    with report.check("no log holds a traceback"):
        for log in (replica.log(), other.log()):
            assert log, "a log is empty"
            assert "Traceback" not in log, log[log.index("Traceback") :][:2000]
