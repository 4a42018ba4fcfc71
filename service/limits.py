"""Bounds are compared before anything is allocated; each names its setting."""

from service.errors import LimitExceeded
from service.settings import Settings

UNITS = {
    "max_body_bytes": "bytes",
    "max_json_bytes": "bytes",
    "max_json_values": "values",
    "max_json_depth": "levels",
    "max_elements": "elements",
    "max_peak_bytes": "bytes",
    "max_answer_bytes": "bytes",
    "max_flops": "operations",
    "max_groups": "groups",
    "max_in_flight_bytes": "bytes",
    "max_queue": "analyses",
    "deadline_s": "seconds",
    "body_timeout_s": "seconds",
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
