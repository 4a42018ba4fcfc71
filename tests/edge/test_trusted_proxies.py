"""Who is believed when telling whose request it is."""

import logging

import pytest
from pydantic import ValidationError

from service.logs import FIELDS
from service.server.config import Config
from service.settings import Settings
from tests.serving import scope_of, send_to, serving

pytestmark = pytest.mark.anyio

PEER = "192.0.2.7"
"""Where the requests of these tests come from."""
FOR = b"x-forwarded-for"


async def logged(caplog, *forwarded, peer=PEER, **settings):
    """The client on the access line of a request with these headers, as the server passes it on."""
    scope = scope_of("/v1/limits", "GET", [(FOR, value) for value in forwarded])
    scope["client"] = peer and (peer, 1234)

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    with caplog.at_level(logging.INFO, "service.access"):
        async with serving(**settings) as client:
            state = client.app.state.shared
            config = Config(client.app, Settings(**settings), state.metrics)
            config.load()
            sent = await send_to(config.loaded_app, scope, receive)
    assert sent[0]["status"] == 200
    return getattr(caplog.records[-1], FIELDS).get("client")


@pytest.mark.parametrize("peer", [PEER, "127.0.0.1", "::1"])
async def test_nobody_is_believed_unasked(caplog, monkeypatch, peer):
    """Without the setting the header is ignored, also from this machine, whatever else is set."""
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    assert await logged(caplog, b"198.51.100.9", peer=peer) == peer


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ([b"198.51.100.9"], "198.51.100.9"),
        ([b"198.51.100.9:4711"], "198.51.100.9"),
        ([b"2001:DB8::1"], "2001:db8::1"),
        ([b"[2001:db8::1]:4711"], "2001:db8::1"),
        ([b"203.0.113.1, 198.51.100.9, 10.0.0.3"], "198.51.100.9"),
        ([b"203.0.113.1", b"198.51.100.9"], "198.51.100.9"),
        ([], PEER),
        ([b""], PEER),
    ],
)
async def test_a_named_proxy_is_believed(caplog, forwarded, client):
    """From a trusted peer the client is the last address that is no trusted proxy's."""
    trusted = f"{PEER}, 10.0.0.0/8"
    assert await logged(caplog, *forwarded, trusted_proxies=trusted) == client


async def test_others_are_not_believed_beside_it(caplog):
    """The header of a peer that is not among the proxies is ignored."""
    assert await logged(caplog, b"198.51.100.9", trusted_proxies="192.0.2.8") == PEER


@pytest.mark.parametrize(
    "text",
    [b"forged", b'" level="error', b"\x1b[2J", b"198.51.100.9 or so", b"fe80::1%\x1b[2J", b"[",
     b"x" * 5000, b"\xff", b"198.51.100.999"],
)  # fmt: skip
async def test_only_addresses_are_logged(caplog, text):
    """What a proxy passes on is text of the caller's; it is no client unless it is an address."""
    assert await logged(caplog, text, trusted_proxies=PEER) in (None, "fe80::1")


@pytest.mark.parametrize("peer", [None, "testclient"])
async def test_a_peer_without_an_address_has_none(caplog, peer):
    """A client is an address or left out."""
    assert await logged(caplog, peer=peer) is None


@pytest.mark.parametrize("given", ["*", "proxy.example", "10.0.0.1/8", "192.0.2.1;192.0.2.2", ","])
def test_what_is_no_address_is_refused_at_the_start(given):
    """A proxy that could never be recognised is told before anybody waits for it."""
    with pytest.raises(ValidationError, match="expected addresses and networks"):
        Settings(trusted_proxies=given)


def test_proxies_come_from_the_environment(monkeypatch):
    """A list is written with commas."""
    monkeypatch.setenv("ATTENTION_TRUSTED_PROXIES", "10.0.0.0/8, ::1")
    assert Settings().trusted_proxies == ("10.0.0.0/8", "::1")
    monkeypatch.setenv("ATTENTION_TRUSTED_PROXIES", "")
    assert Settings().trusted_proxies == ()
