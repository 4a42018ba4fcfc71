"""What is asked by machines that only want to know whether it answers."""

from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import APIRouter

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


def probe(router: APIRouter, path: str, **described: Any) -> Callable[[Endpoint], Endpoint]:
    """Serve GET and HEAD, which many balancers ask; the server leaves the body of HEAD out.

    Described is GET alone. The first route is the one that serves, and whose methods `Allow` tells.
    """

    def served(endpoint: Endpoint) -> Endpoint:
        router.api_route(path, methods=["GET", "HEAD"], include_in_schema=False, **described)(
            endpoint
        )
        return router.get(path, **described)(endpoint)

    return served
