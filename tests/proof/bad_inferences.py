"""Bad inferences of the Open Inference Protocol: the documents and frames of its own tests."""

from collections.abc import Iterator
from typing import Any

from tests.inference import INFER, LENGTH, MODEL, infer_path, inference
from tests.open_inference.test_oip_malformed import DOCUMENTS, FRAMES, OTHER_MODELS, PROTOCOL
from tests.proof.rows import MALFORMED, Row, row

INDEX = "/v2/repository/index"
PROTOCOLS = {
    "a byte too few", "a byte too many", "less than the shape", "more than the shape",
    "no bytes", "a negative size", "a size with a fraction", "a size in words", "a size of truth",
    "a vast size", "strings", "extents that overflow",
}  # fmt: skip
"""Frames whose JSON can be read; the others are malformed."""
INDICES = {
    "cut": b"{",
    "a list": b"[]",
    "of another field": b'{"all":true}',
    "of 1": b'{"ready":1}',
}
CODINGS = {
    "gzip that is none": ("gzip", b"{}", MALFORMED, 400),
    "deflate that is none": ("deflate", b"{}", MALFORMED, 400),
    "a coding that is not read": ("br", b"{}", "unsupported-media-type", 415),
}
UNKNOWN = ["/v2/models/nothing/infer", f"/v2/models/{MODEL}/versions/2/infer"]


def asked(name: str, content: object, slug: str, *, path: str = INFER, **more: Any) -> Row:
    """A request of the protocol, whose own violations are 400."""
    status = 400 if slug == PROTOCOL else None
    return row(name, content, slug, path=path, status=status, **more)


def _documents() -> Iterator[Row]:
    for number, (document, slug, place) in enumerate(DOCUMENTS):
        yield asked(f"{number}, {place}", document, slug)


def _others() -> Iterator[Row]:
    for number, (model, tensors, parameters, slug, place) in enumerate(OTHER_MODELS):
        body, headers = inference(tensors, parameters={**parameters})
        name = f"{number}, {place} of {model}"
        yield asked(name, body, slug, path=infer_path(model), headers=headers)


def _frames() -> Iterator[Row]:
    for name, (body, length) in FRAMES.items():
        headers = {} if length is None else {LENGTH: length}
        yield asked(name, body, PROTOCOL if name in PROTOCOLS else MALFORMED, headers=headers)


ROWS: list[Row] = [
    *_documents(),
    *_others(),
    *_frames(),
    *(
        row(name, content, slug, path=INFER, status=status, headers={"content-encoding": coding})
        for name, (coding, content, slug, status) in CODINGS.items()
    ),
    *(
        asked(name, content, MALFORMED if name in ("cut", "a list") else PROTOCOL, path=INDEX)
        for name, content in INDICES.items()
    ),
    *(row("no such model", b"{}", "unknown-model", path=path, status=404) for path in UNKNOWN),
]
