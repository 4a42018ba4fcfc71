"""What `make image-test` is made of, as far as it can be tried without a container engine."""

import dataclasses
import os
import re
import shlex
import socket
import stat
import subprocess
import sys
from itertools import pairwise
from urllib.request import ProxyHandler, build_opener

import pytest

from tests.image import base, compose, confinement, engine, inventory, launch, report, wheels
from tests.image.building import Arguments
from tests.image.command import Failed, run


def service(**changed):
    """The service cpu, some of its settings changed."""
    found = compose.load("cpu", {})
    return dataclasses.replace(found, given={**found.given, **changed})


def following(flags, flag):
    """The values that a flag is given."""
    return [value for name, value in pairwise(flags) if name == flag]


# --- docker-compose.yml as flags -----------------------------------------------------------------


def test_the_flags_say_what_the_compose_file_says():
    """Every restriction of the service is there as a flag."""
    flags, given = compose.flags(service()), service().given
    assert "--read-only" in flags
    assert "--init" in flags
    assert following(flags, "--tmpfs") == given["tmpfs"]
    assert following(flags, "--cap-drop") == given["cap_drop"]
    assert following(flags, "--security-opt") == given["security_opt"]
    assert following(flags, "--memory") == ["4g"]
    assert following(flags, "--cpus") == ["2"]
    assert following(flags, "--pids-limit") == [str(given["pids_limit"])]
    assert following(flags, "--restart") == ["unless-stopped"]
    assert f"{following(flags, '--stop-timeout')[0]}s" == given["stop_grace_period"]
    (health,) = following(flags, "--health-cmd")
    assert ["CMD", *shlex.split(health)] == given["healthcheck"]["test"]


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_no_setting_of_the_compose_file_is_passed_over(name):
    """All settings are known, as flags or as what is dealt with elsewhere."""
    given = compose.load(name, {}).given.keys() - {"profiles", "deploy"}
    assert given <= compose.FLAGS.keys() | compose.ELSEWHERE


def test_a_setting_that_is_not_known_is_an_error():
    """A new setting of the compose file cannot be forgotten here."""
    with pytest.raises(ValueError, match="privileged"):
        compose.flags(service(privileged=True))


def test_what_the_engine_cannot_limit_is_left_out():
    """Only the flags of limits depend on the engine."""
    flags = compose.flags(service(), {"memory"})
    assert following(flags, "--memory") == ["4g"]
    assert "--cpus" not in flags
    assert "--pids-limit" not in flags
    assert "--read-only" in flags


def test_variables_are_filled_in():
    """A variable's value counts, else the default behind it; two dollars are one."""
    found = compose.load("cpu", {"ATTENTION_MEMORY": "512m"})
    assert found.memory_bytes == 512 * 2**20
    assert compose.load("cpu", {"ATTENTION_MEMORY": ""}).memory_bytes == 4 * 2**30
    assert compose.filled({"a": ["${X:-}$$", 1]}, {}) == {"a": ["$", 1]}


@pytest.mark.parametrize("text", ["$NAME", "${NAME-x}", "${NAME?x}", "${A:-${B}}"])
def test_other_forms_of_variables_are_an_error(text):
    """What this reader does not know is not taken for plain text."""
    with pytest.raises(ValueError, match="not known"):
        compose.filled(text, {})


def test_figures_are_read_in_their_units():
    """Sizes are bytes and durations seconds."""
    assert service().tmpfs == {"/tmp": 64 * 2**20}
    assert service().grace_s == 45
    assert service(mem_limit="3g").memory_bytes == 3 * 2**30


# --- the build -----------------------------------------------------------------------------------


def test_the_base_is_an_argument_before_the_first_stage():
    """A build can be given another base, since no stage stands above the argument."""
    assert re.fullmatch(r"python:3\.\d+-slim-[a-z]+", base.default())


def test_the_build_is_given_what_compose_gives():
    """The arguments have the names that the compose file passes on."""
    arguments = Arguments("a:1", "https://index")
    assert arguments.environment().keys() == service().given["build"]["args"].keys()
    assert {"BASE=a:1", "TORCH_INDEX=https://index"} <= set(arguments.flags())


def test_only_an_index_on_this_machine_takes_its_network():
    """A build stays in a network of its own unless it could not reach the index there."""
    assert "--network" not in Arguments("a", "https://index").flags()
    assert following(Arguments("a", "http://127.0.0.1:1/").flags(), "--network") == ["host"]


def test_a_directory_of_wheels_is_served_as_an_index(tmp_path):
    """The page of a package links its wheel, and the link gives the file."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "torch-1+cpu.whl").write_bytes(b"wheel")
    opener = build_opener(ProxyHandler({}))
    with wheels.served(tmp_path) as address:
        page = opener.open(f"{address}torch/", timeout=10).read().decode()
        (link,) = re.findall('href="([^"]+)"', page)
        content = opener.open(f"{address}torch/{link}", timeout=10).read()
    assert content == b"wheel"


# --- engines -------------------------------------------------------------------------------------


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Stand-ins that are all the programs there are."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def stand_in(name, script):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    return stand_in


def test_docker_is_taken_where_an_engine_answers(programs):
    """A client with an engine behind it."""
    programs("docker", "echo 28.0")
    assert engine.chosen(None) == "docker"


@pytest.mark.parametrize("script", ["echo; exit 0", "echo no daemon >&2; exit 1"])
def test_a_client_without_an_engine_is_not_docker(programs, script):
    """The client alone is passed over, and podman taken; it can still be asked for."""
    programs("docker", script)
    programs("podman", "")
    programs("buildah", "")
    assert engine.chosen(None) == "podman"
    assert engine.chosen("docker") == "docker"


def test_without_an_engine_it_says_what_to_install(programs, monkeypatch):
    """Who is not root is told the command; nothing is installed."""
    programs("apt-get", "exit 99")
    programs("podman", "")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(Failed, match=r"no buildah; on Debian: apt-get install podman buildah"):
        engine.chosen(None)


def test_a_failing_program_is_quoted():
    """The message has the exit code and the end of what was said; `last` its last line."""
    script = "echo out; echo one >&2; echo two >&2; exit 3"
    with pytest.raises(Failed, match=r"sh ended with 3:\none\ntwo") as failed:
        run(["sh", "-c", script])
    assert failed.value.last == "two"
    assert run(["sh", "-c", "echo out; echo err >&2"], merged=True) == "out\nerr\n"
    assert run(["cat"], given="in") == "in"


def test_free_ports_are_a_range():
    """They follow one another, and none is taken."""
    with socket.socket() as taken:
        first = launch.free_ports(3)[0]
        taken.bind(("127.0.0.1", first + 1))
        taken.listen()
        again = launch.free_ports(3)
    assert first + 1 not in again
    assert again == list(range(again[0], again[0] + 3))


# --- checks and their report ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("resource", "said", "expected"),
    [
        ("cpu", "200000 100000", 2.0),
        ("cpu", "150000", 1.5),
        ("memory", "4294967296", 2**32),
        ("pids", "256", 256),
    ],
)
def test_limits_are_read_in_both_versions_of_control_groups(resource, said, expected):
    """`cpu.max` says quota and period, `cpu.cfs_quota_us` the quota alone."""
    assert confinement.amount(resource, said) == expected


def test_a_missing_limit_is_not_a_number():
    """`max` is a failure, and a control group that cannot be seen is not tried."""
    with pytest.raises(ValueError, match="max"):
        confinement.amount("memory", "max")
    with pytest.raises(report.NotTried):
        confinement.amount("memory", None)


def test_the_inventory_sees_what_lies_in_a_directory(tmp_path):
    """Files below are found and weighed; links are not followed, nothing is nothing."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_bytes(bytes(7))
    (tmp_path / "a" / "file").chmod(0o4755)
    (tmp_path / "link").symlink_to("/")
    found = dict(inventory.files(str(tmp_path)))
    assert len(found) == 3
    assert stat.S_IMODE(found[str(tmp_path / "a" / "file")].st_mode) == 0o4755
    assert inventory.weight(str(tmp_path)) == 7
    assert inventory.weight(str(tmp_path / "none")) == 0


def test_the_report_says_what_became_of_each_check(capsys):
    """One line each with its detail, and all but the successes again at the end."""
    tried = report.Report()
    with tried.check("good") as line:
        line.detail = "2 of 2"
    with tried.check("bad"):
        raise AssertionError("first\nsecond")
    with tried.check("out of reach"):
        raise report.NotTried("no engine")
    printed = capsys.readouterr().out.splitlines()
    assert printed == [
        "ok         good: 2 of 2",
        "FAILED     bad: first",
        "second",
        "not tried  out of reach: no engine",
    ]
    assert tried.summary().splitlines() == [
        "",
        "FAILED     bad: first",
        "not tried  out of reach: no engine",
        "1 ok, 1 FAILED, 1 not tried",
    ]


def test_the_exit_code_is_0_only_where_something_was_tried_and_nothing_failed():
    """A failure is not 0, and neither is a run that tried nothing."""
    tried = report.Report()
    tried.not_tried("all of it", "no engine")
    assert tried.exit_code == 1
    with tried.check("good"):
        pass
    assert tried.exit_code == 0
    with tried.check("bad"):
        raise Failed("no")
    assert tried.exit_code == 1


def test_nothing_follows_a_needed_check_that_fails():
    """It is reported like any other, and then the run stops."""
    tried = report.Report()
    with pytest.raises(report.Stopped), tried.check("the build", needed=True):
        raise Failed("no space")
    assert tried.lines[0].outcome == report.FAILED


def test_a_fault_of_the_program_is_no_finding():
    """An error that no check expects is shown as it is."""
    with pytest.raises(ZeroDivisionError), report.Report().check("a"):
        1 / 0  # noqa: B018


def test_the_program_tells_how_it_is_used():
    """It starts, and says what it does, without touching an engine."""
    command = [sys.executable, "-m", "tests.image", "--help"]
    done = subprocess.run(
        command, cwd=compose.ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert "--engine" in done.stdout
