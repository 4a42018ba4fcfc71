"""From a document to a validated request, and from the validator's errors to faults."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from schemas.attention import AttentionRequest, Compute, IncludeItem, IncludeOptions, Labels
from schemas.inputs import Inputs
from schemas.masks import Mask, Window
from schemas.mechanisms import Mechanism
from service.errors import Fault, Invalid
from service.settings import Settings
from service.wire.nested import json_kind, reader

MOST_FAULTS = 20
_NAME_LENGTH = 64


def _models(annotation: object) -> tuple[type[BaseModel], ...]:
    """The models of a union, through the annotations around them."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return (annotation,)
    return tuple(model for part in get_args(annotation) for model in _models(part))


def _by_tag(union: object, field: str) -> dict[str, type[BaseModel]]:
    """The models of a union by the literal of the field that tells them apart."""
    return {
        str(get_args(model.model_fields[field].annotation)[0]): model for model in _models(union)
    }


_INPUTS = _by_tag(Inputs, "kind")
_MECHANISMS = _by_tag(Mechanism, "kind")
_INCLUDES: dict[str, type[BaseModel]] = {**_by_tag(IncludeItem, "name"), "options": IncludeOptions}
# The tags of each union, by the last step before them.
_TAGS: dict[str, tuple[str, ...]] = {
    "inputs": tuple(_INPUTS),
    "mechanism": tuple(_MECHANISMS),
    "parameters": ("seeded", "given"),
}
_PLAIN = (Mask, Window, Labels, Compute)
_OBJECT = "expected an object"
_OBJECT_KINDS = ("model_type", "model_attributes_type", "dict_type")


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
    place, kind = item["loc"], item["type"]
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return _wrong_tag(item, missing=kind == "union_tag_not_found")
    if kind == "extra_forbidden":
        return Fault(pointer(place), _unknown_field(place))
    expected = _OBJECT if kind in _OBJECT_KINDS else item["msg"]
    misfit = kind == "literal_error" and not isinstance(item["input"], str)
    if kind.endswith(("_type", "_parsing")) or misfit:
        expected += f"; found {json_kind(item['input'])}"
    return Fault(pointer(place), expected)


def _wrong_tag(item: ErrorDetails, *, missing: bool) -> Fault:
    """A union's tag is none of those on offer; pydantic's own words would repeat what was sent."""
    place, found = item["loc"], item["input"]
    if not isinstance(found, dict):
        return Fault(pointer(place), f"{_OBJECT}; found {json_kind(found)}")
    known = ", ".join(_TAGS.get(str(place[-1]), ()))
    told = "the field is missing; expected" if missing and "kind" not in found else "expected"
    return Fault(f"{pointer(place)}/kind", f"{told} one of {known}")


def _unknown_field(place: tuple[int | str, ...]) -> str:
    """What is allowed here, and where misplaced tensors belong."""
    model: type[BaseModel] | None = AttentionRequest
    for index in range(len(place) - 1):
        model = _inner(model, place[: index + 1]) if model is not None else None
    known = "" if model is None else f"; known are {', '.join(model.model_fields)}"
    if place[:2] == ("mechanism", "scaled_dot_product"):
        known += f'. Without "kind" it is this one of {", ".join(_MECHANISMS)}'
    if len(place) == 1 and place[0] in ("query", "key", "value", "logits", "weights"):
        known += '. Tensors go into inputs: {"inputs": {"kind": "tensors", "query": …}}'
    return f"unknown field{known}"


def _inner(model: type[BaseModel], place: tuple[int | str, ...]) -> type[BaseModel] | None:
    """The model behind the last step of a place: that of a field, or of a union's tag."""
    step = str(place[-1])
    if len(place) == 2 and place[0] in _TAGS:
        return (_INPUTS if place[0] == "inputs" else _MECHANISMS).get(step)
    if len(place) == 3 and place[0] == "include":
        return _INCLUDES.get(step)
    if _is_tag(place, len(place) - 1):
        return _by_tag(model.model_fields["parameters"].annotation, "kind").get(step)
    if step in ("inputs", "mechanism", "parameters", "include") or place[0] == "include":
        return model
    field = model.model_fields.get(step)
    models = [m for m in _models(field.annotation) if m in _PLAIN] if field is not None else []
    return models[0] if len(models) == 1 else None


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
    """Drop the tags that pydantic puts behind the field of a union."""
    return [step for index, step in enumerate(place) if not _is_tag(place, index)]


def _is_tag(place: tuple[int | str, ...], index: int) -> bool:
    """/inputs/TAG/…, /mechanism/TAG/parameters/TAG/…, /include/0/TAG/…."""
    top = place[0]
    if top == "mechanism" and index == 3:
        return place[2] == "parameters"
    return index == {"inputs": 1, "mechanism": 1, "include": 2}.get(str(top))


def _escaped(step: int | str) -> str:
    return _printed(str(step)).replace("~", "~0").replace("/", "~1")


def _printed(name: str) -> str:
    text = name.encode("utf-8", "backslashreplace").decode()
    if len(text) > _NAME_LENGTH:
        text = text[:_NAME_LENGTH] + "…"
    return "".join(c if c.isprintable() else "�" for c in text)
