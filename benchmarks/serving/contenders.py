"""Who is compared: how each is started, and how it is asked for each case."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks.serving import in_bytes, in_inference, in_json
from benchmarks.serving.cases import Case
from benchmarks.serving.requests import Request

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "benchmarks" / "peers"
BENCH = ROOT / ".bench"
Ask = Callable[[Case], Request]


@dataclass(frozen=True)
class Contender:
    """A server: its environment in .bench, its command, and the ways to ask it by case.

    `environment` None is this project's own. `command` and `settings` may hold `{port}`.
    """

    name: str
    title: str
    environment: str | None
    command: tuple[str, ...]
    ready: str
    ways: Mapping[str, Mapping[str, Ask]]
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def python(self) -> Path:
        """The interpreter it runs on."""
        if self.environment is None:
            return Path(sys.executable)
        return BENCH / self.environment / "bin" / "python"

    @property
    def installed(self) -> bool:
        """Whether its environment is complete."""
        return self.environment is None or (BENCH / self.environment / ".installed").exists()


def _script(name: str) -> tuple[str, ...]:
    return (str(SCRIPTS / name), "{port}")


def _every(way: Ask, cases: str) -> dict[str, Ask]:
    return dict.fromkeys(cases, way)


CONTENDERS = (
    Contender(
        "service",
        "this service",
        None,
        ("-m", "service"),
        "/health/ready",
        {
            "JSON": _every(in_json.service, "SDML"),
            "safetensors": _every(in_bytes.safetensors_file, "SML"),
            "Open Inference": _every(in_inference.service, "SML"),
        },
        {"ATTENTION_PORT": "{port}"},
    ),
    Contender(
        "fastapi",
        "plain FastAPI, typed nested lists",
        "fastapi",
        _script("plain_fastapi.py"),
        "/ready",
        {
            "JSON": _every(partial(in_json.lists, path="/attention"), "SML")
            | {"D": partial(in_json.lists, path="/seeded")}
        },
    ),
    Contender(
        "litserve",
        "LitServe",
        "litserve",
        _script("lit.py"),
        "/health",
        {"JSON": _every(partial(in_json.lists, path="/attention"), "SDML")},
    ),
    Contender(
        "ray",
        "Ray Serve",
        "ray",
        _script("ray_serve.py"),
        "/",
        {
            "JSON, L raw bytes": _every(partial(in_json.lists, path="/"), "SDM")
            | {"L": partial(in_bytes.raw, path="/")}
        },
        # The workers find `attend`; nothing is reported anywhere, no token is written.
        {
            "PYTHONPATH": str(SCRIPTS),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "disabled",
        },
    ),
    Contender(
        "bentoml",
        "BentoML",
        "bentoml",
        (
            "-m",
            "bentoml",
            "serve",
            "bento:Attention",
            "--working-dir",
            str(SCRIPTS),
            "--host",
            "127.0.0.1",
            "--port",
            "{port}",
        ),
        "/readyz",
        {
            "JSON, L multipart": _every(partial(in_json.lists, path="/attention"), "SM")
            | {
                "D": partial(in_json.lists, path="/seeded"),
                "L": partial(in_bytes.files, path="/files"),
            }
        },
        {"BENTOML_DO_NOT_TRACK": "True"},
    ),
    Contender(
        "triton",
        "Triton through pytriton",
        "pytriton",
        _script("pytriton_models.py"),
        "/v2/models/seeded/ready",
        {"Open Inference": _every(in_inference.triton, "SDML")},
    ),
    Contender(
        "starlette",
        "twenty lines of Starlette, no checks",
        "fastapi",
        _script("raw_starlette.py"),
        "/ready",
        {"raw bytes": _every(partial(in_bytes.raw, path="/attention"), "SML")},
    ),
    Contender(
        "null",
        "null: body read, zeros back",
        "fastapi",
        _script("null.py"),
        "/?0",
        {"raw bytes": _every(in_bytes.nothing, "SDML")},
    ),
)
