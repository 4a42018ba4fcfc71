"""Open files: each connection is one."""

import logging
import sys

_log = logging.getLogger("uvicorn.error")
OWN = 256
"""Files beside the connections: libraries, pipes, and connections that are being ended."""


def allow_files(connections: int) -> None:
    """Raise the soft limit of this process as far as the connections need and the hard one lets."""
    if sys.platform == "win32":
        return
    import resource  # there is none on Windows, nor such a limit

    needed = connections + OWN
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        if allowed < needed:
            _log.warning("%d open files are allowed, %d may be needed", allowed, needed)
