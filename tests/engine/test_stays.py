from concurrent.futures import Future

import pytest

from service.engine.admission import Admission
from service.errors import Busy
from service.settings import Settings


@pytest.fixture
def admission():
    return Admission(Settings(max_in_flight_bytes=100, max_queue=2))


def test_bytes_add_up_over_all_requests(admission):
    """What is held counts until the request is over."""
    one, two = admission.stay(), admission.stay()
    one.hold(40)
    one.hold(20)
    two.hold(40)
    assert admission.bytes_in_flight == 100
    with pytest.raises(Busy, match="ATTENTION_MAX_IN_FLIGHT_BYTES"):
        two.hold(1)
    one.close()
    assert admission.bytes_in_flight == 40
    two.hold(60)
    two.close()
    assert admission.bytes_in_flight == 0


def test_alone_everything_is_let_in(admission):
    """A request is never refused for what it holds itself."""
    alone = admission.stay()
    alone.hold(90)
    alone.hold(500)
    assert admission.bytes_in_flight == 590


def test_what_is_needed_no_more_is_given_back(admission):
    """Keeping less frees the rest; keeping more than is held changes nothing."""
    stay = admission.stay()
    stay.hold(80)
    stay.keep(30)
    assert admission.bytes_in_flight == 30
    stay.keep(70)
    assert (admission.bytes_in_flight, stay.bytes_held) == (30, 30)


def test_places_are_bounded_and_given_back(admission):
    """A place is taken from the parsed body to the written answer, or to the end."""
    one, two, three = (admission.stay() for _ in range(3))
    one.take_place()
    two.take_place()
    for refused in (three.take_place, admission.refuse_if_full):
        with pytest.raises(Busy, match="ATTENTION_MAX_QUEUE") as error:
            refused()
        assert error.value.retry_after_s >= 1
    one.leave_place()
    three.take_place()
    assert admission.waiting == 2
    for stay in (one, two, three):
        stay.close()
    assert admission.waiting == 0


def test_work_that_still_runs_holds_what_it_works_on(admission):
    """After the caller has gone, bytes and place count until the last computation has ended."""
    stay, first, second = admission.stay(), Future(), Future()
    stay.hold(50)
    stay.take_place()
    stay.until(first)
    stay.until(second)
    stay.close()
    stay.ended(first)
    assert (admission.bytes_in_flight, admission.waiting) == (50, 1)
    stay.ended(second)
    assert (admission.bytes_in_flight, admission.waiting) == (0, 0)


def test_the_time_to_try_again_is_how_long_the_oldest_waits(admission, monkeypatch):
    """A newcomer is told to wait as long as the oldest request has, within bounds."""
    now = [1000.0]
    monkeypatch.setattr("service.engine.admission.monotonic", lambda: now[0])
    assert admission.retry_after_s == 1
    admission.stay().take_place()
    for later, expected in ((0.0, 1), (4.2, 5), (500.0, 30)):
        now[0] = 1000.0 + later
        assert admission.retry_after_s == expected
