"""Which pass the service computes with, said once when it starts."""

import logging

from service.attention.native import library
from service.attention.native.library import Absent, Native
from service.settings import Settings

_log = logging.getLogger("service")


class PassUnavailable(Exception):
    """The pass that the settings ask for cannot be had here."""


def choose(settings: Settings) -> Native | None:
    """The compiled pass, or None for the eager one.

    Raises:
        PassUnavailable: the compiled one is asked for, and is not there.
    """
    name = settings.name_of("pass_")
    try:
        native, missing = library.chosen(settings.pass_)
    except Absent as error:
        raise PassUnavailable(f"{name}=native: the native pass is not there: {error}") from error
    if missing is not None:
        _log.warning(
            "the eager pass computes, which takes about three times as long as the native one: %s; "
            "%s=eager says that this is meant",
            missing,
            name,
        )
    if native is not None:
        _log.info("the native pass computes, with %s", native.instructions)
    return native
