"""Which pass the service computes with: chosen by what is built, forced by a setting."""

import logging

import httpx
import pytest

from service.app import create_app
from service.attention.native import library
from service.engine.passes import PassUnavailable, choose
from service.settings import Settings
from tests.server_process import running


@pytest.fixture
def absent(monkeypatch):
    """A machine where nothing is compiled."""

    def load():
        raise library.Absent("it has not been built")

    monkeypatch.setattr(library, "load", load)


def built():
    return library.available() is not None


def test_without_the_library_the_eager_pass_computes_and_the_log_says_so_once(absent, caplog):
    """What is slower, and how to change it or to mean it."""
    with caplog.at_level(logging.WARNING):
        assert choose(Settings()) is None
    (record,) = caplog.records
    assert "it has not been built" in record.getMessage()
    assert "ATTENTION_PASS=eager" in record.getMessage()


def test_eager_is_silent_where_it_is_meant(absent, caplog):
    """Nobody is told what they asked for."""
    with caplog.at_level(logging.WARNING):
        assert choose(Settings(pass_="eager")) is None
    assert not caplog.records


def test_native_where_it_is_absent_is_an_error_at_start(absent):
    """It is never a silent surprise."""
    with pytest.raises(PassUnavailable, match=r"ATTENTION_PASS=native: .* has not been built"):
        create_app(Settings(pass_="native"))


@pytest.mark.parametrize("forced", ["native", "eager"])
@pytest.mark.anyio
async def test_devices_and_answers_name_the_forced_pass(forced):
    """Both say which one computes."""
    if forced == "native" and not built():
        pytest.skip("the native pass is not built here")
    app = create_app(Settings(pass_=forced))
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://service") as client,
    ):
        assert (await client.get("/v1/devices")).json()["pass"] == forced
        answer = (await client.post("/v1/attention", json={})).json()
    assert answer["numerics"]["pass"] == forced


@pytest.mark.sockets
def test_the_variable_forces_it(tmp_path):
    """ATTENTION_PASS, as operators set it."""
    with running(tmp_path / "log", **{"pass": "eager"}) as server:
        assert b'"pass":"eager"' in server.ask("GET", "/v1/devices")[2].replace(b" ", b"")
        assert "no setting" not in server.log.read_text()


def test_a_library_of_other_sources_is_not_used(monkeypatch):
    """Whoever changed them is told to build anew."""
    if not built():
        pytest.skip("the native pass is not built here")
    monkeypatch.setattr(library, "fingerprint", lambda: "0" * 16)
    with pytest.raises(library.Absent, match="other sources"):
        library._load()


def test_that_nothing_is_built_is_looked_up_once(monkeypatch):
    """Each body of JSON asks for the library."""
    looked = []

    def absent():
        looked.append(1)
        raise library.Absent("it has not been built")

    monkeypatch.setattr(library, "_load", absent)
    library._once.cache_clear()
    try:
        assert library.available() is None
        with pytest.raises(library.Absent, match="not been built"):
            library.load()
        assert looked == [1]
    finally:
        library._once.cache_clear()
