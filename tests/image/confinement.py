"""What the running service may do: as little as docker-compose.yml grants."""

from typing import Any

from tests.image.building import TAG
from tests.image.compose import LIMITS
from tests.image.replicas import Replica
from tests.image.report import NotTried, Report

_TITLES = {"cpu": "CPU time", "memory": "memory", "pids": "the number of processes"}


def checks(replica: Replica, report: Report) -> None:
    """The checks of a container that runs and does nothing."""
    with report.check("the serving process can be looked at from inside", needed=True):
        found = replica.facts()
    status = found["status"]
    with report.check("it runs as the image's user") as line:
        user, group = replica.engine.inspect(TAG)["Config"]["User"].split(":")
        assert set(status["Uid"].split()) == {user}, status["Uid"]
        assert set(status["Gid"].split()) == {group}, status["Gid"]
        line.detail = f"{user}:{group}, every uid and gid of the process"
    with report.check("it has no capability, and can get none") as line:
        sets = {name: value for name, value in status.items() if name.startswith("Cap")}
        assert all(int(value, 16) == 0 for value in sets.values()), sets
        assert status["NoNewPrivs"] == "1", status["NoNewPrivs"]
        line.detail = f"{', '.join(sets)} are 0, NoNewPrivs is 1"
    _files(replica, found, report)
    with report.check("an init process stands before it") as line:
        line.detail = found["first"]
        assert found["pid"] != 1, line.detail
        assert "init" in line.detail, line.detail
    for resource, title in _TITLES.items():
        _limit(replica, resource, title, found, report)


def _files(replica: Replica, found: dict[str, Any], report: Report) -> None:
    with report.check("the root file system is read-only"):
        assert "ro" in found["mounts"]["/"], found["mounts"]["/"]
    with report.check("a file can be made in /tmp, and not in /, /opt, /etc or /var/tmp"):
        assert found["writable"] == list(replica.service.tmpfs), found["writable"]
    for path, size in replica.service.tmpfs.items():
        with report.check(f"{path} is in memory, of the size asked for") as line:
            assert found["mounts"][path][0] == "tmpfs", found["mounts"][path]
            assert found["tmp_bytes"] == size, found["tmp_bytes"]
            line.detail = f"{size // 2**20} MiB"


def _limit(
    replica: Replica, resource: str, title: str, found: dict[str, Any], report: Report
) -> None:
    with report.check(f"the kernel limits {title}") as line:
        if resource not in replica.engine.limits:
            raise NotTried(f"{replica.engine.name} cannot limit it on this machine")
        line.detail = str(replica.service.given[LIMITS[resource]])
        expected = {
            "cpu": float(replica.service.given["cpus"]),
            "memory": replica.service.memory_bytes,
            "pids": int(replica.service.given["pids_limit"]),
        }
        assert amount(resource, found["limits"][resource]) == expected[resource], found["limits"]


def amount(resource: str, said: str | None) -> float:
    """A limit of a control group as a number; version 2 says `quota period` of CPU time."""
    if said is None:
        raise NotTried("the container does not see its control group")
    quota, *period = said.split()
    if resource != "cpu":
        return float(quota)
    return float(quota) / float(*period or ("100000",))
