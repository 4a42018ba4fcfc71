"""What the service answers from outside: health, JSON, safetensors, a picture."""

import json
import time

from tests.image.compose import ROOT
from tests.image.engine import PODMAN
from tests.image.replicas import Replica
from tests.image.report import Report

PATH = "/v1/attention"
_EXAMPLE = ROOT / "examples" / "minilm.safetensors"
_HEALTHY_S = 40


def checks(replica: Replica, report: Report) -> None:
    """The checks of one replica that serves."""
    with report.check("the compose file's health check passes inside"):
        replica.execute(*replica.service.health_command)
    with report.check("the engine finds it healthy") as line:
        line.detail = engines_view(replica)
    with report.check("the compiled pass computes") as line:
        line.detail = replica.ask("GET", "/v1/devices").json()["pass"]
        assert line.detail == "native"
    with report.check("POST /v1/attention with {} gives a verdict") as line:
        answer = replica.ask("POST", PATH, json={})
        assert answer.status_code == 200, answer.text[:500]
        line.detail = answer.json()["verdict"]["level"]
    with report.check("a safetensors file of a real model is analysed") as line:
        line.detail = real_model(replica)
    with report.check("a picture is drawn, with nothing but /tmp to write to") as line:
        picture = drawn(replica)
        assert picture.startswith(b"\x89PNG\r\n\x1a\n"), picture[:8]
        line.detail = f"PNG of {len(picture):,} bytes"


def engines_view(replica: Replica) -> str:
    """How the engine came to say that the container is healthy."""
    if replica.engine.name == PODMAN and not replica.engine.schedules_health:
        replica.engine("healthcheck", "run", replica.name)
        return "asked by hand, once: podman leaves the intervals to systemd's timers"
    gives_up = time.monotonic() + _HEALTHY_S
    while (status := replica.state()["Health"]["Status"]) != "healthy":
        assert time.monotonic() < gives_up, status
        time.sleep(0.5)
    return "by itself"


def real_model(replica: Replica) -> str:
    """Post the stored attention of a model; the worst head in words."""
    answer = replica.ask(
        "POST",
        PATH,
        params={"request": json.dumps({"include": ["diagnostics"], "ignore_unknown": True})},
        content=_EXAMPLE.read_bytes(),
        headers={"Content-Type": "application/x-safetensors"},
    )
    assert answer.status_code == 200, answer.text[:500]
    worst = answer.json()["ranking"][0]
    return f"worst is {worst['group']}, head {worst['head']}: {worst['level']}"


def drawn(replica: Replica) -> bytes:
    """The heat map of the default request."""
    answer = replica.ask("POST", PATH, json={}, headers={"Accept": "image/png"})
    assert answer.status_code == 200, answer.text[:500]
    return answer.content
