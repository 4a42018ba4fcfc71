"""How fast an answer has to be read."""

import heapq
import itertools

import pytest

from service.server.reading import LEAST_BYTES, LEAST_RATE, Reading

WAIT_S = 30
MIB = 2**20


class Timer:
    """A call that is due."""

    def __init__(self, call):
        self.call = call

    def cancel(self):
        self.call = None


class Clock:
    """The part of a loop that tells the time, and lets it pass."""

    def __init__(self):
        self.now, self._due, self._order = 0.0, [], itertools.count()

    def time(self):
        return self.now

    def call_later(self, seconds, call):
        timer = Timer(call)
        heapq.heappush(self._due, (self.now + seconds, next(self._order), timer))
        return timer

    def passes(self, seconds):
        self.now += seconds
        while self._due and self._due[0][0] <= self.now:
            _, _, timer = heapq.heappop(self._due)
            if timer.call is not None:
                timer.call()


class Buffer:
    """What of the answers has not been read, as a transport has it."""

    def __init__(self):
        self.left, self.aborted = 0, False

    def get_write_buffer_size(self):
        return self.left

    def abort(self):
        self.aborted = True


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def buffer():
    return Buffer()


@pytest.fixture
def reading(clock, buffer):
    return Reading(buffer, clock, WAIT_S)


def read(clock, buffer, rate, most_s=86_400):
    """Read so many bytes a second until nothing is left; how long it was possible."""
    began = clock.now
    while buffer.left and not buffer.aborted and clock.now < began + most_s:
        buffer.left = max(0, buffer.left - rate)
        clock.passes(1)
    return clock.now - began


@pytest.mark.parametrize("rate", [0, LEAST_BYTES // WAIT_S - 1])
def test_who_reads_almost_nothing_is_cut_after_one_wait(reading, clock, buffer, rate):
    """Less than the least bytes in the time of the setting ends the connection."""
    buffer.left = 256 * MIB
    reading.watch()
    assert read(clock, buffer, rate) == WAIT_S
    assert buffer.aborted


@pytest.mark.parametrize("rate", [LEAST_BYTES // WAIT_S + 1, LEAST_RATE // 4, LEAST_RATE // 2])
def test_who_reads_the_least_bytes_over_and_over_is_cut(reading, clock, buffer, rate):
    """The whole answer has its time by its bytes: drops do not keep 256 MiB for hours."""
    buffer.left = 256 * MIB
    reading.watch()
    assert read(clock, buffer, rate) <= 3 * WAIT_S
    assert buffer.aborted


@pytest.mark.parametrize("rate", [LEAST_RATE, 4 * LEAST_RATE])
def test_who_reads_at_the_least_rate_gets_all(reading, clock, buffer, rate):
    """An answer may take as long as its bytes take at the rate that is documented."""
    buffer.left = 256 * MIB
    reading.watch()
    assert read(clock, buffer, rate) == 256 * MIB / rate
    assert not buffer.aborted


def test_a_small_answer_may_be_read_slowly(reading, clock, buffer):
    """What is read within one wait is never too slow."""
    buffer.left = 2 * LEAST_BYTES
    reading.watch()
    read(clock, buffer, buffer.left // 25)
    clock.passes(WAIT_S)
    assert not buffer.aborted


def test_drops_of_a_stream_add_up(reading, clock, buffer):
    """An answer written in pieces is one answer: each piece read slowly makes it later."""
    reading.begin()
    for _ in range(3):
        assert not buffer.aborted
        buffer.left = LEAST_BYTES
        reading.watch()
        clock.passes(WAIT_S - 1)
        buffer.left = 0
        reading.stop()
    assert buffer.aborted


def test_the_time_of_computing_does_not_count(reading, clock, buffer):
    """While nothing waits to be read, a stream may take as long as it takes."""
    reading.begin()
    for _ in range(100):
        buffer.left = 4 * LEAST_BYTES
        reading.watch()
        clock.passes(1)
        buffer.left = 0
        reading.stop()
        clock.passes(10 * WAIT_S)
    assert not buffer.aborted


def test_answers_are_late_each_for_itself(reading, clock, buffer):
    """A caller on a slow line may ask as often as it likes."""
    for _ in range(100):
        reading.begin()
        buffer.left = 2 * LEAST_BYTES
        reading.watch()
        read(clock, buffer, LEAST_BYTES // 10)
        reading.watch()
    assert not buffer.aborted
