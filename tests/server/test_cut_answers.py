import json
import re
import time

import pytest

from tests.server_process import running

pytestmark = pytest.mark.sockets

_SHAPE = {"kind": "seeded", "heads": 8, "query_length": 1024, "d_k": 16}
_BODY = json.dumps({"inputs": _SHAPE, "include": ["weights"]}).encode()
_HEAD = (
    b"POST /v1/attention HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"Accept: application/x-safetensors\r\nContent-Length: %d\r\n\r\n" % len(_BODY)
)


def told(server, pattern):
    """A number among the metrics."""
    text = server.ask("GET", "/metrics")[2].decode()
    return float(re.search(rf"^{pattern} ([\d.e+]+)$", text, re.MULTILINE)[1])


def test_an_answer_that_is_cut_is_told_as_such(tmp_path):
    """Who leaves amid a large answer is counted and logged as gone, and what was held is free."""
    with running(tmp_path / "log", unknown_thing=1) as server:
        connection = server.connect(_HEAD + _BODY)
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
        connection.close()
        for _ in range(200):
            if told(server, "attention_cancelled_total") == 1:
                break
            time.sleep(0.02)
        assert told(server, "attention_cancelled_total") == 1
        assert told(server, "attention_in_flight_bytes") == 0
        lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    (cut,) = (line for line in lines if line.get("cancelled"))
    assert cut["status"] == 200
    assert 0 < cut["response_bytes"] < 8 * 1024 * 1024 * 4
    assert "ATTENTION_UNKNOWN_THING is no setting" in [line["message"] for line in lines]
