"""A computation that nobody waits for, and that does not end."""

import asyncio

from service.engine.engine import Engine

_EVERY_S = 0.2


async def watch(engine: Engine, hang_after_s: float) -> None:
    """Tell the engine's hook, once, when a device has computed too long for nobody."""
    while engine.abandoned_s <= hang_after_s:  # noqa: ASYNC110 - it is time that passes
        await asyncio.sleep(_EVERY_S)
    engine.on_hang(f"a computation that nobody waits for has not ended within {hang_after_s:g} s")
