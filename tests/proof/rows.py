"""A bad request and what must be answered to it."""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from service.encodings import JSON, SAFETENSORS
from tests.files import raw
from tests.proof.originals import ATTENTION

CANARY = "canary-9d27-never-repeated"
"""Stands in the rows where a value of the caller's would; no answer repeats any of it."""
INVALID, SHAPE, MASK, LIMIT = "invalid-request", "shape-mismatch", "invalid-mask", "limit-exceeded"
MALFORMED, UNKNOWN, NONFINITE = "malformed-body", "unknown-entry", "non-finite"
STATUS = {MALFORMED: 400, LIMIT: 413}


@dataclass(frozen=True, slots=True)
class Row:
    """One request, and the status and problem type that are right for it."""

    name: str
    path: str
    body: bytes
    status: int
    slug: str
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    method: str = "POST"

    @property
    def sent(self) -> tuple[Any, ...]:
        """What tells it from other rows."""
        return (
            self.method,
            self.path,
            self.body,
            tuple(self.headers.items()),
            tuple(self.query.items()),
        )


def row(
    name: str,
    content: object,
    slug: str,
    *,
    path: str = ATTENTION,
    status: int | None = None,
    encoding: str = JSON,
    headers: Mapping[str, str] | None = None,
    query: Mapping[str, str] | None = None,
) -> Row:
    """A request with a body: bytes as they are, anything else as JSON."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    status = STATUS.get(slug, 422) if status is None else status
    sent = {"content-type": encoding, **(headers or {})}
    return Row(f"{path}: {name}", path, body, status, slug, sent, query or {})


def file_row(name: str, content: bytes, slug: str, *, path: str = ATTENTION, **more: Any) -> Row:
    """A request with a safetensors file."""
    return row(name, content, slug, path=path, encoding=SAFETENSORS, **more)


def packed(tensor: torch.Tensor) -> dict[str, Any]:
    """A tensor as base64, which can hold NaN and infinity."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    data = base64.b64encode(raw(tensor)).decode()
    return {"shape": list(tensor.shape), "dtype": dtype, "data": data}
