"""The process: its settings, its log, its application and its server."""

import gc
import logging
import os
import sys

from fastapi import FastAPI
from prometheus_client import disable_created_metrics
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from service import logs
from service.api.telemetry import TelemetryUnavailable
from service.app import create_app
from service.engine.passes import PassUnavailable
from service.server.config import Config
from service.server.files import allow_files
from service.server.lifecycle import Server
from service.settings import Settings

NAME = "attention-analysis"
_log = logging.getLogger("service")


def serve() -> None:
    """Serve on ATTENTION_HOST and ATTENTION_PORT until told to stop."""
    settings = _settings()
    logs.configure(settings.log_level, settings.log_format)
    for name in Settings.unknown(os.environ):
        _log.warning("%s is no setting", name)
    # What telemetry calls this service, unless the operator has a name for it.
    os.environ.setdefault("OTEL_SERVICE_NAME", NAME)
    # The moment each counter was made would double the series, and nobody asks for it.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    server = server_of(_app(settings), settings)
    allow_files(settings.max_connections)
    # What the imports made stays: a full collection that walks it stops all threads for 0.1 s.
    gc.freeze()
    gc.enable()  # it was off while they were made
    server.run()
    sys.exit(server.exit_code)


def _app(settings: Settings) -> FastAPI:
    try:
        return create_app(settings, warm_up=True)
    except (TelemetryUnavailable, PassUnavailable) as error:
        sys.exit(str(error))


def _settings() -> Settings:
    """Those of the environment; a wrong one ends the process with a sentence for each."""
    try:
        return Settings()
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
        sys.exit("\n".join(map(_said, found)))


def _said(fault: ErrorDetails) -> str:
    return f"{_variable(str(fault['loc'][0]))}: {fault['msg'].removeprefix('Value error, ')}"


def _variable(field: str) -> str:
    return field if field.startswith("ATTENTION_") else f"ATTENTION_{field.upper()}"


def server_of(app: FastAPI, settings: Settings) -> Server:
    """A server for the application, each knowing when the other stops."""
    shared = app.state.shared
    engine, config = shared.engine, Config(app, settings, shared.metrics)
    server = Server(config, drain=engine.drain, fail=engine.fail)
    engine.on_hang = server.hang
    return server
