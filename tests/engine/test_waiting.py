import threading
import time

import pytest

from service.engine.ticket import Ticket
from service.engine.waiting import Entry, Waiting, Work


def entry(key=None):
    return Entry(Work(None, pytest.fail, key), Ticket(time.monotonic() + 60, "x"))


def queue_of(*entries, most=8):
    waiting = Waiting(most)
    for one in entries:
        waiting.put(one)
    return waiting


def test_the_oldest_comes_first_with_all_its_equals():
    """Whatever has the key of the oldest is taken with it, in the order it came."""
    a1, b1, a2, b2, a3 = (entry(key) for key in "ababa")
    waiting = queue_of(a1, b1, a2, b2, a3)
    assert waiting.take() == [a1, a2, a3]
    assert waiting.take() == [b1, b2]
    assert len(waiting) == 0


def test_work_without_a_key_is_alone():
    """None is no key: two of them are not the same."""
    one, two = entry(), entry()
    waiting = queue_of(one, two)
    assert (waiting.take(), waiting.take()) == ([one], [two])


def test_no_more_are_taken_together_than_allowed():
    """What is over the bound waits for the next turn."""
    entries = [entry("a") for _ in range(5)]
    waiting = queue_of(*entries, most=2)
    assert [waiting.take() for _ in range(3)] == [entries[:2], entries[2:4], entries[4:]]


def test_what_nobody_waits_for_is_forgotten():
    """A discarded entry is not given out; discarding what is not there does nothing."""
    one, two, never = entry("a"), entry("a"), entry("a")
    waiting = queue_of(one, two)
    waiting.discard(one)
    waiting.discard(never)
    assert waiting.take() == [two]


def test_taking_waits_for_work():
    """A thread that takes from an empty queue gets what comes next."""
    waiting, taken, one = Waiting(8), [], entry()
    thread = threading.Thread(target=lambda: taken.append(waiting.take()))
    thread.start()
    time.sleep(0.02)
    assert not taken
    waiting.put(one)
    thread.join(5)
    assert taken == [[one]]


def test_closing_cancels_what_waits_and_ends_who_takes():
    """After the end nothing is given out, and nobody waits for ever."""
    one = entry()
    waiting = queue_of(one)
    waiting.close()
    assert one.future.cancelled()
    assert waiting.take() == []
