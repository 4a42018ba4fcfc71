"""Waiting for what another task or thread does."""

import asyncio
import time

import pytest


async def until(condition):
    """Wait until something is so."""
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it never became so")


def wait_until(condition, seconds=10.0):
    """The same where there is no loop, as for what another process does."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.02)
    pytest.fail("it never became so")
