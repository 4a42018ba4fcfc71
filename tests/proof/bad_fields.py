"""Every field of every request with something that does not belong there."""

from collections.abc import Iterator
from typing import Any

from tests.mutations import places, replaced
from tests.proof.originals import (
    ATTENTION,
    COMPARED,
    COMPARISONS,
    ESTIMATE,
    EVERYTHING,
    HEADED,
    PROJECTED,
    SOFTENED,
    SOFTMAX,
    SWEEPS,
    SWEPT,
)
from tests.proof.rows import CANARY, INVALID, Row, row

WRONG: dict[str, Any] = {"an object": {"x": CANARY}, "a string in lists": [[CANARY]]}
"""Both are wrong in every field of every request."""
FULL: list[tuple[str, dict[str, Any]]] = [
    (ATTENTION, EVERYTHING),
    (ATTENTION, {"mechanism": HEADED["mechanism"], "inputs": HEADED["inputs"]}),
    (ESTIMATE, {"mechanism": PROJECTED["mechanism"], "inputs": PROJECTED["inputs"]}),
    (SOFTMAX, SOFTENED),
    (SWEEPS, SWEPT),
    (COMPARISONS, COMPARED),
]


def fields(document: Any) -> Iterator[tuple[str | int, ...]]:
    """The paths to all that has a name, save the elements of tensors given by shape and data."""
    for path in places(document):
        if path and isinstance(path[-1], str):
            yield path


def _wrong() -> Iterator[Row]:
    for number, (path, document) in enumerate(FULL):
        for place in fields(document):
            for told, value in WRONG.items():
                name = f"/{'/'.join(map(str, place))} is {told}, {number}"
                yield row(name, replaced(document, place, value), INVALID, path=path)


ROWS: list[Row] = [*_wrong()]
