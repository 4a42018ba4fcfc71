"""What schemathesis is told of this service's callers, and of what no schema can say."""

import re
from itertools import count
from typing import Any

import schemathesis
from hypothesis import strategies as st

from schemas.sweeps import SweepRequest
from service.encodings import JSON, PICTURES, SAFETENSORS
from tests.builders import normal
from tests.files import file_of
from tests.inference import LENGTH as HEADER_LENGTH
from tests.proof.originals import SWEEPS

VIEW = {"batch", "head", "theme"}
_IN_QUERY = re.compile(rf"(^|&)({'|'.join(VIEW)})=")
PICTURE_EVERY = 32
"""Pictures take a while to draw: one in so many requests gets one."""
FEW = 2
MISFITS = {
    "dtype-mismatch",
    "invalid-mask",
    "limit-exceeded",
    "non-finite",
    "shape-mismatch",
    "unavailable-device",
    "unknown-entry",
}
"""Problems that depend on more than one place of a request, or on this machine."""
UNSAYABLE = [
    r"the list is ragged",
    r"the list mixes lists and elements",
    r"shape \[.*\] (of \w+ )?needs",
    r"the extents of shape are too large",
    r"data is not base64",
    r"a boolean byte must be 0 or 1",
    r"the number at \[.*\] is too large for",
    # JSON Schema takes 2.0 for an integer, as the next two do not.
    r"found a number with a fraction",
    r"shape must be a list of at most 4 extents",
    r"expected a label of its own for each",
]
"""What one place of a valid document may be refused for, and a schema cannot say."""
FILES = [
    file_of({"logits": normal(2, 3)}),
    file_of({"query": normal(2, 3), "key": normal(4, 3)}, {"request": '{"include":["output"]}'}),
    file_of({f"l{i}.query": normal(2, 3, seed=i) for i in range(3)}),
    file_of({"weights": normal(2, 3).softmax(-1)}),
    file_of({}, {"request": '{"inputs":{"kind":"seeded"}}'}),
]
schemathesis.openapi.media_type(SAFETENSORS, st.sampled_from(FILES) | st.binary(max_size=64))


class Taking:
    """The service, and callers that accept each documented encoding in turn."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self._turn = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and (kinds := self._documented(scope)):
            self._turn += 1
            accepted = kinds[self._turn % len(kinds)].encode()
            kept = [(name, value) for name, value in scope["headers"] if name != b"accept"]
            scope = {**scope, "headers": [*kept, (b"accept", accepted)]}
        await self.app(scope, receive, send)

    def _documented(self, scope: Any) -> list[str]:
        """Pictures, where a request has their parameters or it is their turn; else the others."""
        operation = self.app.openapi()["paths"].get(scope["path"], {}).get(scope["method"].lower())
        answers = (operation or {}).get("responses", {}).get("200", {}).get("content", {})
        pictures = [kind for kind in answers if kind in PICTURES]
        asked = _IN_QUERY.search(scope["query_string"].decode()) or not self._turn % PICTURE_EVERY
        return pictures if pictures and asked else [k for k in answers if k not in PICTURES]


_turns = count()


@schemathesis.hook("before_call")
def coherent(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Leave out of a valid request the parameters that another encoding would need.

    That `request` goes with a file, a view with a picture, and a length of JSON with bytes behind
    it, no schema can say.
    """
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    query = case.query or {}
    dropped = {"request"} if case.media_type == JSON else set()
    if "Of a picture" in str(case.operation.definition.raw.get("parameters")):
        dropped |= VIEW if next(_turns) % PICTURE_EVERY else set()
    if dropped & query.keys():
        case.query = {name: value for name, value in query.items() if name not in dropped}
    if case.media_type == JSON and HEADER_LENGTH in (case.headers or {}):
        case.headers = {n: v for n, v in case.headers.items() if n != HEADER_LENGTH}
    if case.path == SWEEPS and isinstance(case.body, dict):
        case.body = shorter(case.body)


def shorter(sweep: dict[str, Any]) -> dict[str, Any]:
    """The classic table takes a second: its first points, with fewer repeats, stand for it."""
    d_k, repeats = (
        sweep.get(name, SweepRequest.model_fields[name].default) for name in ("d_k", "repeats")
    )
    return {**sweep, "d_k": d_k[:FEW], "repeats": min(repeats, FEW)}


@schemathesis.check
def said_by_no_schema(context: Any, response: Any, case: Any) -> None:
    """A valid JSON document of /v1 is refused only for what no schema can say.

    A detail that does not begin with a place is about several of them.
    """
    valid = case.meta is not None and case.meta.generation.mode.is_positive
    judged = valid and case.media_type == JSON and case.path.startswith("/v1/")
    if not judged or response.status_code < 400:
        return
    problem = response.json()
    detail, slug = problem["detail"], problem["type"].removeprefix("/problems/")
    several = slug in MISFITS or not detail.startswith("/")
    if not several and not any(re.search(pattern, detail) for pattern in UNSAYABLE):
        raise AssertionError(f"refused though the document allows it: {detail}")
