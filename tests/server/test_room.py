"""Whose place a new connection takes."""

import pytest

from service.app import create_app
from service.server.config import Config, Shared
from service.server.files import OWN
from service.server.protocol import MOST_SPARED, YOUNG_S, Protocol
from service.settings import Settings

pytestmark = pytest.mark.anyio


class Transport:
    """A connection of which so many bytes have not been read."""

    def __init__(self, left):
        self.left, self.aborted = left, False

    def get_extra_info(self, _name):
        return None

    def get_write_buffer_size(self):
        return self.left

    def abort(self):
        self.aborted = True


async def ended(*left, young=False):
    """Which connections with so many bytes unread one more ends, and whether it is one too many."""
    app = create_app()
    settings = Settings(max_connections=len(left))
    config, shared = Config(app, settings, app.state.shared.metrics), Shared()
    transports = [Transport(count) for count in (*left, 0)]
    for transport in transports:
        if transport is transports[-1] and not young:
            for each in shared.waiting:
                shared.waiting[each] -= YOUNG_S
        protocol = Protocol(config, shared, {})
        protocol.connection_made(transport)
    protocol._drop_deadline()
    return [t.aborted for t in transports[:-1]], protocol._crowded


async def test_the_longest_waiting_makes_room():
    """Of connections whose answers have been read, the first one ends."""
    assert await ended(0, 0, 0) == ([True, False, False], False)


async def test_an_answer_that_is_being_read_makes_no_room():
    """While a part of an answer is left to be read, a connection that came later ends instead."""
    assert await ended(9, 0, 0) == ([False, True, False], False)


async def test_where_all_answers_are_being_read_there_is_no_room():
    """Nobody's answer is cut for a new connection."""
    assert await ended(9, 9) == ([False, False], True)


async def test_a_young_connection_makes_no_room_yet():
    """Who has just connected may ask before it is ended, up to a number beyond the bound."""
    assert await ended(0, 0, young=True) == ([False, False], True)


async def test_no_more_than_so_many_are_spared(monkeypatch):
    """A flood of new connections ends the oldest of its own."""
    assert MOST_SPARED < OWN
    monkeypatch.setattr("service.server.protocol.MOST_SPARED", 0)
    assert await ended(0, 0, young=True) == ([True, False], False)
