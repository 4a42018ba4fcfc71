"""The table of bad requests: how many, how large and how slow their answers, and no 5xx."""

import asyncio

import httpx

from service.app import create_app
from tests.proof.bad_bodies import ROWS
from tests.proof.judging import Judged, judged
from tests.stress.figures import Figure

LEAST_ROWS = 150
SLOWEST_S = 1.0


def run() -> list[Figure]:
    """A few seconds, in this process."""
    found = asyncio.run(_asked())
    wrong = [one for one in found if one.faults]
    for one in wrong:
        print(one.row.name, *one.faults, sep="\n  ")
    broken = sum(one.status >= 500 for one in found)
    fullest = max(found, key=lambda one: one.size / one.allowed)
    largest, slowest = max(one.size for one in found), max(found, key=lambda one: one.seconds)
    print(f"slowest: {slowest.row.name}")
    return [
        Figure(
            "bad requests answered with the expected status and problem, health 200 after each",
            f"all of at least {LEAST_ROWS}",
            f"{len(found) - len(wrong)} of {len(found)}",
            not wrong and len(found) >= LEAST_ROWS,
        ),
        Figure("5xx to a bad request", "0", str(broken), broken == 0),
        Figure(
            "an error's answer",
            "max(4 KiB, 2 × the body), at most 16 KiB",
            f"at most {largest:,} bytes, {fullest.size / fullest.allowed:.0%} of what is allowed",
            all(one.size <= one.allowed for one in found),
        ),
        Figure(
            "the slowest answer to a bad request, of up to 5 MB",
            f"{SLOWEST_S:g} s",
            f"{slowest.seconds:.2f} s",
            slowest.seconds <= SLOWEST_S,
        ),
    ]


async def _asked() -> list[Judged]:
    app = create_app()
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://service") as client,
    ):
        return [await judged(client, row) for row in ROWS]
