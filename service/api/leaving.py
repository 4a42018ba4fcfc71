"""Callers that go away."""

from starlette.types import Receive


async def gone(receive: Receive) -> None:
    """Wait until the caller has gone; its body has been read before."""
    while (await receive())["type"] != "http.disconnect":
        pass
