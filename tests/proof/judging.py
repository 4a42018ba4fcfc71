"""What is wrong with the answer to a bad request, and whether the service is well after it."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass

import httpx

from service.api.problems import known_problems
from tests.proof.rows import CANARY, Row

ALWAYS_BYTES, MOST_BYTES = 4 * 1024, 16 * 1024
REQUIRED = {"type", "title", "status", "detail", "instance", "request_id", "errors", "error"}
OPTIONAL = {"limit", "allowed", "needed"}


@dataclass(frozen=True, slots=True)
class Judged:
    """The answer to one row, and every fault of it."""

    row: Row
    status: int
    size: int
    seconds: float
    faults: tuple[str, ...]
    limit: str | None

    @property
    def allowed(self) -> int:
        """Bytes that the answer may have."""
        return allowed_bytes(self.row)


def allowed_bytes(row: Row) -> int:
    """Twice the body, at least 4 and at most 16 KiB."""
    return min(MOST_BYTES, max(ALWAYS_BYTES, 2 * len(row.body)))


async def judged(client: httpx.AsyncClient, row: Row) -> Judged:
    """Send it, look at the answer, and ask for health."""
    began = time.perf_counter()
    answer = await client.request(
        row.method, row.path, content=row.body, headers=dict(row.headers), params=dict(row.query)
    )
    took = time.perf_counter() - began
    health = [(await client.get(probe)).status_code for probe in ("/health/live", "/health/ready")]
    unwell = [f"after it health is {health}"] if health != [200, 200] else []
    faults = (*_faults(row, answer), *unwell)
    limit = answer.json().get("limit") if answer.status_code == 413 else None
    return Judged(row, answer.status_code, len(answer.content), took, faults, limit)


def _faults(row: Row, answer: httpx.Response) -> Iterator[str]:
    if answer.status_code != row.status:
        yield f"status {answer.status_code}, expected {row.status}: {answer.text[:300]}"
        return
    if len(answer.content) > allowed_bytes(row):
        yield f"{len(answer.content)} bytes to a body of {len(row.body)}"
    if CANARY[:6] in answer.text + str(answer.headers):
        yield f"a value of the caller's is repeated: {answer.text[:500]}"
    if "content-encoding" in answer.headers:
        yield "it is compressed"
    if answer.headers["content-type"] == "application/problem+json":
        yield from _problem_faults(row, answer)
    else:
        yield f"it is {answer.headers['content-type']}"


def _problem_faults(row: Row, answer: httpx.Response) -> Iterator[str]:
    problem = json.loads(answer.text, parse_constant=_refused)
    if not REQUIRED <= problem.keys() <= REQUIRED | OPTIONAL:
        yield f"its members are {', '.join(problem)}"
        return
    slug = problem["type"].removeprefix("/problems/")
    if slug != row.slug:
        yield f"problem {slug}, expected {row.slug}: {problem['detail']}"
    status, title, _ = known_problems()[slug]
    if (problem["status"], problem["title"]) != (status, title) or status != row.status:
        yield f"status or title are not those of {slug}"
    if not problem["detail"] or problem["error"] != problem["detail"]:
        yield "error is not the detail"
    if problem["request_id"] != answer.headers["x-request-id"]:
        yield "the request id is not that of the header"
    if len(problem["errors"]) > 20 or not all(_is_fault(fault) for fault in problem["errors"]):
        yield f"its errors are {problem['errors']}"
    if not all(text.isprintable() for text in _texts(problem)):
        yield "it holds characters that are not printable"


def _refused(constant: str) -> float:
    raise ValueError(constant)


def _is_fault(fault: dict[str, str]) -> bool:
    return (
        fault.keys() == {"pointer", "detail"}
        and fault["pointer"][:1] in ("", "/")
        and bool(fault["detail"])
    )


def _texts(problem: dict[str, object]) -> Iterator[str]:
    for name in ("detail", "title", "error"):
        yield str(problem[name])
    for fault in problem["errors"]:
        yield from fault.values()
