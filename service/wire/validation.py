"""From a document to a validated request, and from the validator's errors to faults."""

from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from schemas.attention import AttentionRequest
from service.errors import Fault, Invalid
from service.settings import Settings
from service.wire.nested import reader

MOST_FAULTS = 20
_NAME_LENGTH = 64
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
    found = error.errors(include_url=False, include_input=False)
    faults = tuple(_fault(item) for item in found[:MOST_FAULTS])
    first = faults[0]
    more = f" ({count - 1} more)" if count > 1 else ""
    return Invalid(f"{first.pointer or 'the request'}: {first.detail}{more}", faults=faults)


def _fault(item: ErrorDetails) -> Fault:
    """One error in words; pydantic's own for a wrong tag would repeat what the caller sent."""
    place, context = item["loc"], item.get("ctx", {})
    if item["type"] == "union_tag_invalid":
        tag = str(context["discriminator"]).strip("'")
        return Fault(f"{pointer(place)}/{tag}", f"expected one of {context['expected_tags']}")
    if item["type"] == "union_tag_not_found":
        tag = str(context["discriminator"]).strip("'")
        return Fault(f"{pointer(place)}/{tag}", "the field is missing; it says which kind is meant")
    return Fault(pointer(place), item["msg"])


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
