"""Building the compiled pass: once, by whatever compiler there is, or not at all."""

import ctypes
import shutil
import subprocess

import pytest

from service.attention.native import build, sources


@pytest.fixture(autouse=True)
def each_pass():
    """Nothing is computed here."""


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """The library goes to a place of its own."""
    library = tmp_path / "pass.so"
    monkeypatch.setattr(build, "LIBRARY", library)
    return library


def test_without_a_compiler_nothing_fails(elsewhere, monkeypatch, capsys):
    """It is said what that costs, and how to change it."""
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert build.main() == 0
    assert not elsewhere.exists()
    assert "install g++" in capsys.readouterr().out


def test_a_compiler_that_fails_is_an_error(elsewhere, monkeypatch, capsys):
    """With what it said."""
    monkeypatch.setenv("CXX", "false")
    assert build.main() == 1
    assert not elsewhere.exists()
    assert "eager" in capsys.readouterr().err


def test_it_is_built_once(elsewhere, monkeypatch, capsys):
    """The second time nothing is compiled; sources that changed are compiled again."""
    if build._compiler() is None:
        pytest.skip("no C++ compiler here")
    assert build.main() == 0
    library = ctypes.CDLL(str(elsewhere))
    library.attention_sources.restype = ctypes.c_char_p
    assert library.attention_sources().decode() == sources.fingerprint()
    monkeypatch.setattr(subprocess, "Popen", None)
    assert build.main() == 0
    monkeypatch.setattr(build, "fingerprint", lambda: "f" * 16)
    with pytest.raises(TypeError):
        build.main()
