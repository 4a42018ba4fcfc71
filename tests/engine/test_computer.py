import gc
import time
import weakref

import torch

from service.engine.computer import Computer
from service.engine.ticket import Ticket
from service.engine.waiting import Entry, Work
from service.metrics import Metrics


class Large:
    """Something that is computed, or computed with."""


def test_what_was_computed_is_not_kept_until_the_next_work():
    """Neither the item nor its result lives on in the thread that waits."""
    metrics = Metrics(mechanisms=["x"], reasons=[])
    computer = Computer(torch.device("cpu"), 1, 4, metrics)
    try:
        item = Large()
        work = Work(item, lambda items, _: [Large() for _ in items], "key", "x")
        entry = Entry(work, Ticket(time.monotonic() + 30, "x"))
        computer.waiting.put(entry)
        result = entry.future.result(10).result
        alive = [weakref.ref(item), weakref.ref(result)]
        del item, result, work, entry
        for _ in range(100):
            gc.collect()
            if not any(ref() for ref in alive):
                break
            time.sleep(0.01)
        assert [ref() for ref in alive] == [None, None]
    finally:
        computer.stop()
