"""FastAPI's own OpenTelemetry hook: off, or spans, metrics and logs for a collector."""

import logging
import os
from importlib.util import find_spec

from fastapi.telemetry import TelemetryConfig
from starlette.types import Scope

from service.api.paths import is_probe
from service.settings import Settings

_EXPORTER = "opentelemetry.exporter.otlp.proto.http"
_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
_log = logging.getLogger("service")


class TelemetryUnavailable(RuntimeError):
    """Telemetry is asked for, and what it needs is not installed."""


def telemetry_of(settings: Settings) -> TelemetryConfig:
    """What FastAPI is told; where spans go is told by OpenTelemetry's own variables.

    Raises:
        TelemetryUnavailable: the extra `otel` is not installed.
    """
    setting = settings.name_of("telemetry")
    if not settings.telemetry:
        return {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}
    if not _installed():
        raise TelemetryUnavailable(
            f"{setting} is on, but what it needs is not installed: "
            ".venv/bin/pip install -c constraints.txt -e '.[otel]'"
        )
    if not any(name.startswith("OTEL_EXPORTER_OTLP_") for name in os.environ):
        _log.warning("%s is on; %s names no collector to send to", setting, _ENDPOINT)
    return {"auto_configure": True, "exclude": _excluded}


def _installed() -> bool:
    try:
        return find_spec(_EXPORTER) is not None and find_spec("opentelemetry.sdk") is not None
    except ModuleNotFoundError:
        return False


def _excluded(scope: Scope) -> bool:
    """Probes come every few seconds and say nothing new."""
    return is_probe(scope.get("path", ""))
