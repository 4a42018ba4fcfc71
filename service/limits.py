"""Bounds are compared before anything is allocated; each names its setting."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from service.errors import LimitExceeded
from service.settings import Settings

_LARGEST_INTEGER = 2**63 - 1
UNITS = {
    "max_body_bytes": "bytes",
    "max_decoded_bytes": "bytes",
    "max_json_bytes": "bytes",
    "max_json_values": "values",
    "max_json_depth": "levels",
    "max_elements": "elements",
    "max_peak_bytes": "bytes",
    "max_answer_bytes": "bytes",
    "max_flops": "operations",
    "max_groups": "groups",
    "max_sweep_points": "points",
    "max_in_flight_bytes": "bytes",
    "max_queue": "requests",
    "deadline_s": "seconds",
    "body_timeout_s": "seconds",
    "hang_after_s": "seconds",
    "max_header_bytes": "bytes",
    "max_headers": "headers",
    "max_connections": "connections",
    "head_timeout_s": "seconds",
    "send_timeout_s": "seconds",
    "keep_alive_s": "seconds",
    "drain_delay_s": "seconds",
    "grace_s": "seconds",
}
"""Every bound among the settings, and its unit; a test compares this with Settings."""


def within(settings: Settings, field: str, needed: int, what: str, advice: str = "") -> None:
    """Compare a need with the setting `field`.

    Raises:
        LimitExceeded: names what needs how much, what is allowed and the setting.
    """
    allowed = getattr(settings, field)
    if needed > allowed:
        raise LimitExceeded(
            what, needed=needed, allowed=allowed, setting=settings.name_of(field), advice=advice
        )


@dataclass(frozen=True, slots=True)
class Need:
    """What is needed of a setting: compared with it before any work."""

    field: str
    needed: int
    what: str
    advice: str = ""


def check(needs: Iterable[Need], settings: Settings) -> None:
    """Compare needs with their limits.

    Raises:
        LimitExceeded: the first limit that is exceeded.
    """
    for need in needs:
        within(settings, need.field, need.needed, need.what, need.advice)


def compared(needs: Iterable[Need], settings: Settings) -> dict[str, dict[str, Any]]:
    """Each limit beside the largest need of it."""
    largest: dict[str, Need] = {}
    for need in needs:
        if need.field not in largest or need.needed > largest[need.field].needed:
            largest[need.field] = need
    return {
        field: {
            "needed": bounded(need.needed),
            "allowed": getattr(settings, field),
            "setting": settings.name_of(field),
            "what": need.what,
        }
        for field, need in largest.items()
    }


def bounded(number: int) -> int:
    """At most what a JSON writer takes for an integer; a product of extents can be larger."""
    return min(number, _LARGEST_INTEGER)
