"""Waiting for what another task or thread does."""

import asyncio

import pytest


async def until(condition):
    """Wait until something is so."""
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it never became so")
