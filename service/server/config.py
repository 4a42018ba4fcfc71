"""uvicorn's configuration, from the settings."""

from collections import OrderedDict
from typing import TYPE_CHECKING

import uvicorn
from starlette.types import ASGIApp
from uvicorn.server import ServerState

from service.metrics import Metrics
from service.settings import Settings

if TYPE_CHECKING:
    from service.server.protocol import Protocol


class Config(uvicorn.Config):
    """How this service is served; the protocol finds its bounds here."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        super().__init__(
            app,
            host=settings.host,
            port=settings.port,
            log_level=settings.log_level,
            # The application has a line for each request, and logging is configured before.
            log_config=None,
            access_log=False,
            http="service.server.protocol:Protocol",
            ws="none",
            lifespan="on",
            timeout_keep_alive=settings.keep_alive_s,
            # None: past its own grace uvicorn logs errors and tracebacks; the lifecycle has one.
            timeout_graceful_shutdown=None,
            server_header=False,
            # By default it would believe whoever calls from this machine.
            proxy_headers=bool(settings.trusted_proxies),
            forwarded_allow_ips=list(settings.trusted_proxies),
        )
        self.settings, self.metrics = settings, metrics


class Shared(ServerState):
    """What the connections of a server share."""

    def __init__(self) -> None:
        super().__init__()
        self.draining = False
        self.waiting: OrderedDict[Protocol, float] = OrderedDict()
        """The connections that no answer is due on, and since when; the longest waiting first."""
