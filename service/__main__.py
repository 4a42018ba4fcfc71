"""`python -m service`: serve on ATTENTION_HOST and ATTENTION_PORT."""

import gc
import os
import sys

from fastapi import FastAPI

from service import logs
from service.app import create_app
from service.server.config import Config
from service.server.files import allow_files
from service.server.lifecycle import Server
from service.settings import Settings

NAME = "attention-analysis"


def main() -> None:
    """Serve until told to stop."""
    settings = Settings()
    logs.configure(settings.log_level, settings.log_format)
    # What telemetry calls this service, unless the operator has a name for it.
    os.environ.setdefault("OTEL_SERVICE_NAME", NAME)
    server = server_of(create_app(settings, warm_up=True), settings)
    allow_files(settings.max_connections)
    # What the imports made stays: a full collection that walks it stops all threads for 0.1 s.
    gc.collect()
    gc.freeze()
    server.run()
    sys.exit(server.exit_code)


def server_of(app: FastAPI, settings: Settings) -> Server:
    """A server for the application, each knowing when the other stops."""
    shared = app.state.shared
    engine, config = shared.engine, Config(app, settings, shared.metrics)
    server = Server(config, drain=engine.drain, fail=engine.fail)
    engine.on_hang = server.hang
    return server


if __name__ == "__main__":
    main()
