"""The container files, checked without a container engine."""

import json
import os
import re
import subprocess
import sys
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from service.settings import Settings

ROOT = Path(__file__).parent.parent
DOCKERFILE = ROOT / "Dockerfile"
COMPOSE = ROOT / "docker-compose.yml"
IGNORE = ROOT / ".dockerignore"
TOOLS = Path(sys.executable).parent


def run(*command, **changed):
    """Run a command without a network: proxies that nobody listens on."""
    nowhere = "http://127.0.0.1:9"
    environment = {**os.environ, "HTTPS_PROXY": nowhere, "HTTP_PROXY": nowhere, **changed}
    environment = {name: value for name, value in environment.items() if value is not None}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env=environment
    )


def stages():
    """The stages of the Dockerfile in order: name to (base, [(instruction, arguments), …])."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE)
    found, current = {}, []
    for line in text.replace("\\\n", "").splitlines():
        instruction, _, arguments = line.strip().partition(" ")
        if instruction == "FROM":
            base, _, name = arguments.partition(" AS ")
            current = []
            found[name] = (base, current)
        elif instruction:
            current.append((instruction, arguments.strip()))
    return found


def lineage(name):
    """All instructions that a stage consists of, those of the stages it is based on first."""
    base, own = stages()[name]
    return (lineage(base) if base in stages() else []) + own


def last(name, instruction):
    """The arguments of the last such instruction of an image."""
    return [arguments for found, arguments in lineage(name) if found == instruction][-1]


def health_command():
    """The health check's command as a list."""
    return json.loads(last("cpu", "HEALTHCHECK").partition(" CMD ")[2])


def services():
    """The services of the compose file, anchors merged."""
    return YAML(typ="safe").load(COMPOSE.read_text())["services"]


IMAGES = pytest.mark.parametrize("image", ["cpu", "cuda"])
SERVICES = pytest.mark.parametrize("service", ["cpu", "gpu"])


# --- what others' checkers say -------------------------------------------------------------------


def test_hadolint_finds_nothing():
    """The Dockerfile passes hadolint with its default rules."""
    found = run(str(TOOLS / "hadolint"), "--no-color", str(DOCKERFILE))
    assert (found.returncode, found.stdout) == (0, "")


def test_the_compose_file_fits_the_compose_specification():
    """docker-compose.yml fits the schema of the compose specification, checked offline."""
    check = (sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec")
    assert run(*check, str(COMPOSE)).returncode == 0


def test_an_unknown_compose_key_would_be_found(tmp_path):
    """The schema check is not empty: a misspelt key fails it."""
    wrong = tmp_path / "docker-compose.yml"
    wrong.write_text(COMPOSE.read_text().replace("read_only:", "readonly:"))
    check = (sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec")
    assert run(*check, str(wrong)).returncode == 1


# --- the images ----------------------------------------------------------------------------------


def test_the_base_image_is_pinned():
    """Every stage comes from one base, tagged with a Python that the project supports."""
    default = re.search(r"^ARG BASE=(\S+)$", DOCKERFILE.read_text(), re.MULTILINE)[1]
    major, minor = re.fullmatch(r"python:(\d+)\.(\d+)(?:\.\d+)?-slim-[a-z]+", default).groups()
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert (int(major), int(minor)) >= tuple(map(int, needed.removeprefix(">=").split(".")))
    bases = {base for base, _ in stages().values()}
    assert bases - set(stages()) == {"${BASE}"}


def test_cpu_is_what_a_plain_build_gives():
    """The last stage, which a build without a target gives, is cpu; cuda is there beside it."""
    assert list(stages())[-1] == "cpu"
    assert "cuda" in stages()


@IMAGES
def test_the_user_is_numeric_and_not_root(image):
    """Both images run as a numeric user, so that an orchestrator can see it is not root."""
    user, group = re.fullmatch(r"(\d+):(\d+)", last(image, "USER")).groups()
    assert int(user) > 0
    assert int(group) > 0


@IMAGES
def test_commands_are_in_exec_form(image):
    """No shell stands between the engine's signals and Python."""
    assert json.loads(last(image, "CMD")) == ["python", "-m", "service"]
    assert last(image, "STOPSIGNAL") == "SIGTERM"
    assert health_command()[0] == "python"
    assert not [1 for instruction, _ in lineage(image) if instruction == "ENTRYPOINT"]


@IMAGES
def test_an_image_holds_only_the_environment_and_the_packages(image):
    """Beside the base there is what two stages built; nothing comes straight from the context."""
    copies = [arguments.split() for name, arguments in lineage(image) if name == "COPY"]
    stages = {f"--from={image}-dependencies", "--from=project", "--from=native"}
    assert {source for source, *_ in copies} == stages
    places = {"/opt/venv", "/opt/app", "/opt/app/service/attention/native/"}
    assert {target for *_, target in copies} == places
    assert not [1 for instruction, _ in lineage(image) if instruction in ("RUN", "ADD")]


@IMAGES
def test_a_change_of_code_does_not_install_torch_again(image):
    """Nothing that changes with the code is copied before the dependencies are installed."""
    steps = lineage(f"{image}-dependencies")
    copied = {word for name, arguments in steps if name == "COPY" for word in arguments.split()}
    assert copied == {
        "constraints.txt",
        "./",
        "--from=requirements",
        "/build/requirements.txt",
    }
    assert any("pip install --constraint" in arguments for name, arguments in steps)


def test_the_torch_index_is_a_build_argument_of_cpu_only():
    """The index is empty by default, and the cuda image cannot be given the CPU's by mistake."""
    assert ("ARG", 'TORCH_INDEX=""') in lineage("cpu-dependencies")
    assert not [1 for _, arguments in lineage("cuda-dependencies") if "TORCH_INDEX" in arguments]


@IMAGES
def test_the_image_listens_where_it_says(image):
    """It listens on all interfaces of the container, on the port that it exposes."""
    environment = " ".join(arguments for name, arguments in lineage(image) if name == "ENV")
    values = dict(pair.split("=", 1) for pair in environment.split())
    assert values["ATTENTION_HOST"] == "0.0.0.0"
    assert values["ATTENTION_PORT"] == last(image, "EXPOSE")
    assert values["PYTHONDONTWRITEBYTECODE"] == "1"


def test_the_build_context_is_what_is_copied():
    """All that the Dockerfile copies exists and is let in, and nothing else is let in."""
    lines = [line for line in IGNORE.read_text().splitlines() if line and line[0] != "#"]
    assert lines[0] == "*"
    let_in = {line[1:] for line in lines if line.startswith("!")}
    copied = {
        source.removeprefix("./")
        for _, steps in stages().values()
        for name, arguments in steps
        if name == "COPY" and "--from" not in arguments
        for source in arguments.split()[:-1]
    }
    within = {name for name in copied if any(name.startswith(f"{whole}/") for whole in let_in)}
    assert copied - within == let_in
    assert [name for name in sorted(copied) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False), (404, False)])
def test_the_health_check_tells_ready_from_not_ready(status, healthy):
    """The health check's command exits 0 on 200 and not on 503, whatever proxy is set."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_):
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        _, *rest = health_command()
        found = run(
            sys.executable,
            *rest,
            ATTENTION_PORT=str(server.server_port),
            http_proxy="http://127.0.0.1:9",
            no_proxy=None,
            NO_PROXY=None,
        )
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert asked == ["/health/ready"]
    assert (found.returncode == 0) is healthy, found.stderr


# --- the services --------------------------------------------------------------------------------


@SERVICES
def test_a_service_is_hardened(service):
    """Read-only, without capabilities or new privileges; memory, CPU and processes limited."""
    given = services()[service]
    assert given["read_only"] is True
    assert [path.split(":")[0] for path in given["tmpfs"]] == ["/tmp"]
    assert given["cap_drop"] == ["ALL"]
    assert given["security_opt"] == ["no-new-privileges:true"]
    assert given["mem_limit"] == "${ATTENTION_MEMORY:-4g}"
    assert given["cpus"] == "${ATTENTION_CPUS:-2}"
    assert 64 <= given["pids_limit"] <= 1024
    assert given["init"] is True
    assert given["restart"] == "unless-stopped"
    assert not given.keys() & {"privileged", "cap_add", "user", "network_mode", "volumes"}


@SERVICES
def test_stopping_takes_longer_than_the_server_may(service):
    """The engine waits longer before it kills than the server takes to finish its requests."""
    grace = re.fullmatch(r"(\d+)s", services()[service]["stop_grace_period"])[1]
    settings = Settings()
    assert int(grace) > settings.drain_delay_s + settings.grace_s


@SERVICES
def test_the_health_check_is_the_images(service):
    """The compose file and the Dockerfile ask the same question at the same times."""
    check = services()[service]["healthcheck"]
    assert check["test"] == ["CMD", *health_command()]
    flags = dict(re.findall(r"--([a-z-]+)=(\S+)", last("cpu", "HEALTHCHECK")))
    named = {name.replace("_", "-"): str(value) for name, value in check.items() if name != "test"}
    assert named == flags


@SERVICES
def test_a_service_can_be_scaled(service):
    """No fixed name; the published port is a variable, so that it can be a range."""
    given = services()[service]
    assert "container_name" not in given
    (port,) = given["ports"]
    host, inside = re.fullmatch(r"\$\{\w+:-(.+)\}:(\d+)", port).groups()
    assert re.fullmatch(r"127\.0\.0\.1:\d+", host)
    assert inside == last("cpu", "EXPOSE")


def test_both_services_can_run_side_by_side():
    """They publish different ports and read different variables for them."""
    (cpu,), (gpu,) = services()["cpu"]["ports"], services()["gpu"]["ports"]
    assert cpu.partition(":-")[0] != gpu.partition(":-")[0]
    assert cpu.partition(":-")[2] != gpu.partition(":-")[2]


def test_cpu_starts_by_default_and_gpu_reserves_a_device():
    """Cpu has no profile; gpu has one, the cuda image and one NVIDIA device."""
    given = services()
    assert "profiles" not in given["cpu"]
    assert given["cpu"]["build"]["target"] == "cpu"
    assert given["cpu"]["build"]["args"] == {"BASE": None, "TORCH_INDEX": "${TORCH_INDEX:-}"}
    assert given["gpu"]["profiles"] == ["gpu"]
    assert given["gpu"]["build"]["target"] == "cuda"
    assert given["gpu"]["build"]["args"] == {"BASE": None}
    assert given["gpu"]["deploy"]["resources"]["reservations"]["devices"] == [
        {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    ]


@SERVICES
def test_an_image_is_built_here_never_pulled(service):
    """Without an image name there is nothing that an engine would look for elsewhere first."""
    assert "image" not in services()[service]


@pytest.mark.parametrize("path", [DOCKERFILE, COMPOSE, IGNORE], ids=lambda path: path.name)
def test_no_host_and_no_machine_is_named(path):
    """No address but the loopback, no host name, no path of the machine it was written on."""
    text = path.read_text().replace("http://127.0.0.1", "")
    assert re.findall(r"\w+://", text) == []
    assert re.findall(r"\b[\w-]+\.(?:org|com|io|net|dev|ai)\b(?!\.)", text) == []
    assert re.findall(r"(?<![\w.])/(?:home|root|work|Users|mnt)\b", text) == []
