"""What is in the image, and what must not be."""

import json
import re
from pathlib import Path
from typing import Any

from tests.image.building import TAG, Arguments
from tests.image.compose import Service
from tests.image.engine import Engine
from tests.image.report import Report

_MOST = 1.5e9
"""Bytes of an image with torch's CPU build; it was 1.1e9 when this was written."""
_INVENTORY = Path(__file__).with_name("inventory.py")


def inventory(engine: Engine, image: str, *flags: str) -> dict[str, Any]:
    """What inventory.py finds inside an image."""
    given = _INVENTORY.read_text()
    return dict(json.loads(engine.once(image, "python", "-", flags=flags, given=given)))


def megabytes(count: int) -> str:
    """Decimal megabytes, as engines count."""
    return f"{count / 1e6:,.0f} MB"


def checks(engine: Engine, given: Arguments, service: Service, report: Report) -> None:
    """The checks of an image that is not running."""
    with report.check("the image's user is a number and not root") as line:
        line.detail = service.given.get("user") or engine.inspect(TAG)["Config"]["User"]
        assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", line.detail), line.detail
    root = "--user=0:0"
    with report.check("an inventory of the image can be made", needed=True):
        found, before = (inventory(engine, image, root) for image in (TAG, given.base))
        as_user = inventory(engine, TAG)
    with report.check("the image is of a reasonable size") as line:
        line.detail = sizes(found, before)
        assert found["bytes"] <= _MOST or not given.torch_index, line.detail
    with report.check("nothing under /opt can be written by that user"):
        assert as_user["uid"] != 0, "that user is root"
        assert as_user["writable"] == [], as_user["writable"][:5]
    with report.check("no setuid or setgid file but the base's") as line:
        added = sorted(set(found["setuid"]) - set(before["setuid"]))
        assert added == [], added
        line.detail = f"{len(before['setuid'])} in the base"
    with report.check("no compiler"):
        assert set(found["compilers"]) <= set(before["compilers"]), found["compilers"]
    with report.check("no pip, no cache and nothing of the build is left"):
        assert set(found["leftovers"]) <= set(before["leftovers"]), found["leftovers"]


def sizes(found: dict[str, Any], before: dict[str, Any]) -> str:
    """The size of the files, and of what takes most of it."""
    parts = {"base": before["bytes"], **found["heaviest"], "the project": found["project"]}
    named = ", ".join(f"{name} {megabytes(count)}" for name, count in parts.items())
    return f"{megabytes(found['bytes'])} uncompressed: {named}"
