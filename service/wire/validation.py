"""From a document to a validated request, and from the validator's errors to faults."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from schemas.attention import AttentionRequest, Compute, Labels
from schemas.inputs import LogitInputs, SeededInputs, TensorInputs, WeightInputs
from schemas.masks import Mask, Window
from schemas.mechanisms import ScaledDotProduct
from service.errors import Fault, Invalid
from service.settings import Settings
from service.wire.nested import json_kind, reader

MOST_FAULTS = 20
_NAME_LENGTH = 64
_BY_KIND: dict[str, type[BaseModel]] = {
    "seeded": SeededInputs,
    "tensors": TensorInputs,
    "logits": LogitInputs,
    "weights": WeightInputs,
}
_KINDS = tuple(_BY_KIND)
_PLAIN = (ScaledDotProduct, Mask, Window, Labels, Compute)
_OBJECT = "expected an object"
_OBJECT_KINDS = ("model_type", "model_attributes_type", "dict_type")
# Where the tag of a union's member stands in an error's place: /inputs/TAG/…, /include/0/TAG/….
_TAG_BEHIND: dict[int | str, int] = {"inputs": 1, "include": 2}


def validate(document: dict[str, object], settings: Settings) -> AttentionRequest:
    """Validate strictly; tensors are read on the way.

    Raises:
        Invalid: what is wrong and where, at most 20 faults, without the caller's values.
    """
    try:
        return AttentionRequest.model_validate(document, context={"read_tensor": reader(settings)})
    except ValidationError as error:
        raise invalid(error) from None


def invalid(error: ValidationError) -> Invalid:
    """Faults with JSON pointers; the caller's values are never repeated."""
    count = error.error_count()
    found = error.errors(include_url=False)
    faults = tuple(_fault(item) for item in found[:MOST_FAULTS])
    first = faults[0]
    more = f" ({count - 1} more)" if count > 1 else ""
    return Invalid(f"{first.pointer or 'the request'}: {first.detail}{more}", faults=faults)


def _fault(item: ErrorDetails) -> Fault:
    """One error in words: what was expected, what kind of thing was found, what is allowed."""
    place, kind, context = item["loc"], item["type"], item.get("ctx", {})
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        tag = str(context["discriminator"]).strip("'")
        # pydantic's own words for a wrong tag would repeat what the caller sent.
        told = "expected" if kind == "union_tag_invalid" else "the field is missing; expected"
        return Fault(f"{pointer(place)}/{tag}", f"{told} one of {', '.join(_KINDS)}")
    if kind == "extra_forbidden":
        return Fault(pointer(place), _unknown_field(place))
    expected = _OBJECT if kind in _OBJECT_KINDS else item["msg"]
    misfit = kind == "literal_error" and not isinstance(item["input"], str)
    if kind.endswith(("_type", "_parsing")) or misfit:
        expected += f"; found {json_kind(item['input'])}"
    return Fault(pointer(place), expected)


def _unknown_field(place: tuple[int | str, ...]) -> str:
    """What is allowed here, and where misplaced tensors belong."""
    model: type[BaseModel] | None = AttentionRequest
    for step in place[:-1]:
        model = _inner(model, step) if model is not None else None
    known = "" if model is None else f"; known are {', '.join(model.model_fields)}"
    if len(place) == 1 and place[0] in ("query", "key", "value", "logits", "weights"):
        known += '. Tensors go into inputs: {"inputs": {"kind": "tensors", "query": …}}'
    return f"unknown field{known}"


def _inner(model: type[BaseModel], step: int | str) -> type[BaseModel] | None:
    """The model behind a field, or behind the tag of a union."""
    if step in _BY_KIND:
        return _BY_KIND[str(step)]
    field = model.model_fields.get(str(step))
    if field is None:
        return None
    if step == "inputs":
        return model
    models = [m for m in _models(field.annotation) if m in _PLAIN]
    return models[0] if len(models) == 1 else None


def _models(annotation: object) -> tuple[object, ...]:
    return get_args(annotation) or (annotation,)


@contextmanager
def blaming(group: str | None) -> Iterator[None]:
    """What is invalid inside is said of this group of a file."""
    try:
        yield
    except Invalid as error:
        if group is None:
            raise
        detail = f"group {_printed(group)}: {error.detail}"
        raise type(error)(detail, faults=error.faults) from None


def pointer(place: tuple[int | str, ...]) -> str:
    """A JSON pointer (RFC 6901); the names of union members are no part of the request."""
    return "".join(f"/{_escaped(step)}" for step in _without_tags(place))


def _without_tags(place: tuple[int | str, ...]) -> list[int | str]:
    """Drop the discriminator that pydantic puts behind the field of a union."""
    behind = _TAG_BEHIND.get(place[0]) if place else None
    return [step for index, step in enumerate(place) if index != behind]


def _escaped(step: int | str) -> str:
    return _printed(str(step)).replace("~", "~0").replace("/", "~1")


def _printed(name: str) -> str:
    text = name.encode("utf-8", "backslashreplace").decode()
    if len(text) > _NAME_LENGTH:
        text = text[:_NAME_LENGTH] + "…"
    return "".join(c if c.isprintable() else "�" for c in text)
