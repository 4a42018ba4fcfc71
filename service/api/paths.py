"""The paths that operators and readers ask, told apart from those that do the work."""

HEALTH = ("/health/", "/v2/health/")
METRICS = "/metrics"
DOCUMENT = "/openapi.json"
STATIC = "/static-offline-docs"
"""Where the files of the docs pages lie."""
_DOCS = frozenset({"/", "/docs", "/redoc", DOCUMENT})


def is_health(path: str) -> bool:
    """Never behind a key."""
    return path.startswith(HEALTH)


def is_probe(path: str) -> bool:
    """Asked every few seconds by machines: health and metrics."""
    return is_health(path) or path == METRICS


def is_static(path: str) -> bool:
    """A file of the docs pages."""
    return path.startswith(f"{STATIC}/")


def is_documentation(path: str) -> bool:
    """The docs pages, what they load, and what a problem's type means."""
    return path in _DOCS or is_static(path) or path.startswith("/problems/")
