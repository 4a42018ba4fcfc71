import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from service.masks import MASKS
from service.mechanisms import MECHANISMS
from service.normalizers import NORMALIZERS

ROOT = Path(__file__).parents[1]


def run(*command, **environment):
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False, env=environment
    )


def test_the_floors_hold():
    """Every import goes down: the contracts of pyproject.toml are kept, all of them."""
    tool = Path(sys.executable).with_name("lint-imports")
    found = run(str(tool), "--no-cache", PYTHONPATH=str(ROOT))
    contracts = (
        (ROOT / "pyproject.toml")
        .read_text(encoding="utf-8")
        .count("[[tool.importlinter.contracts]]")
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert contracts >= 4
    assert f"{contracts} kept, 0 broken" in found.stdout


IMPORT = """
import os, sys, threading
import service.app
assert threading.active_count() == 1, threading.enumerate()
import torch
assert not torch.cuda.is_initialized()
generator = torch.Generator().manual_seed(torch.initial_seed())
assert torch.equal(torch.randn(3), torch.randn(3, generator=generator))
assert torch.get_num_threads() == THREADS
from service.app import create_app
try:
    create_app()
except ValueError as error:
    assert "port" in str(error)
else:
    sys.exit("the environment was not read")
del os.environ["ATTENTION_PORT"]
create_app().openapi()
assert threading.active_count() == 1, threading.enumerate()
"""


def test_importing_does_no_work():
    """Importing starts no thread, touches no device and reads no setting; making starts none."""
    before = "import torch; THREADS = torch.get_num_threads()"
    found = run(
        sys.executable, "-W", "error", "-c", before + IMPORT,
        PYTHONPATH=str(ROOT), ATTENTION_PORT="not a port",
    )  # fmt: skip
    assert found.returncode == 0, found.stdout + found.stderr
    assert found.stdout == ""


def test_the_contract_needs_no_tensor_library():
    """The schemas can be imported, and a request validated, without torch or numpy."""
    code = """
import sys
sys.modules["torch"] = sys.modules["numpy"] = None
from schemas.attention import AttentionRequest
AttentionRequest.model_validate({"inputs": {"kind": "tensors", "query": [[1]]}})
assert not any(name.startswith("service") for name in sys.modules)
"""
    found = run(sys.executable, "-c", code, PYTHONPATH=str(ROOT))
    assert found.returncode == 0, found.stderr


# Brackets around one character keep this file from finding itself.
PLACES = [r"[/]work/", r"[/]home/[a-z]", r"[/]root/", r"[/]Users/", r"\b[C-Z]:[\\][A-Za-z]"]
HOSTS = [
    r"pypi[.]org",
    r"pythonhosted[.]org",
    r"download[.]pytorch",
    r"(docker|ghcr|quay|gcr|nvcr)[.]io",
    r"registry[.][a-z]+[.]",
    r"artifactor[y]",
    r"index-url[ =]+http",
]


def tracked_text():
    """The text files under version control, with what they say."""
    listed = run("git", "-c", "safe.directory=*", "ls-files", "-z", PATH="/usr/bin:/bin")
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes()
            if b"\0" not in content:
                yield name, content.decode("utf-8")


@pytest.mark.parametrize("patterns", [PLACES, HOSTS], ids=["paths", "hosts"])
def test_nothing_names_a_machine_or_a_registry(patterns):
    """No tracked text holds an absolute path of somebody's machine or a package registry's host."""
    pattern = re.compile("|".join(patterns))
    found = [
        f"{name}: {match.group()}"
        for name, text in tracked_text()
        for match in pattern.finditer(text)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("patterns", "join", "pieces"),
    [
        (PLACES, "/", ("cd ", "work", "main")),
        (PLACES, "/", ("", "home", "jane")),
        (PLACES, "/", ("", "root", ".cache")),
        (HOSTS, ".", ("https://pypi", "org/simple")),
        (HOSTS, ".", ("FROM ghcr", "io/a/b")),
    ],
)
def test_a_machine_or_a_registry_would_be_found(patterns, join, pieces):
    """The patterns find what they are meant to find."""
    assert re.search("|".join(patterns), join.join(pieces))


@pytest.mark.parametrize(
    ("contract", "members"),
    [
        ("Mechanisms do not know one another", MECHANISMS.values()),
        ("Normalizers do not know one another", NORMALIZERS.values()),
        ("Masks do not know one another", MASKS),
    ],
)
def test_every_member_of_a_room_is_under_its_contract(contract, members):
    """A new mechanism, normaliser or mask that the contract forgets is named here."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    contracts = tomllib.loads(text)["tool"]["importlinter"]["contracts"]
    listed = next(c["modules"] for c in contracts if c["name"] == contract)
    kinds = {member if isinstance(member, type) else type(member) for member in members}
    assert {kind.__module__ for kind in kinds} - set(listed) == set()
