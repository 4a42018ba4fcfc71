"""`python -m service`: serve on ATTENTION_HOST and ATTENTION_PORT."""

import gc

import uvicorn

from service.app import create_app
from service.settings import Settings

KEEP_ALIVE_S = 65
"""Longer than the 60 s of common proxies, so that the proxy is the one that closes."""
GRACE_S = 30


def main() -> None:
    """Serve until told to stop."""
    settings = Settings()
    app = create_app(settings)
    # What the imports made stays: a full collection that walks it stops all threads for 0.1 s.
    gc.collect()
    gc.freeze()
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        log_level=settings.log_level,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
        server_header=False,
        http="httptools",
    )


if __name__ == "__main__":
    main()
