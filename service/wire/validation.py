"""From a document to a validated request, and from the validator's errors to faults."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from schemas.mechanisms import ScaledDotProduct
from schemas.strict import Strict
from service.errors import Fault, Invalid
from service.settings import Settings
from service.wire.nested import json_kind, reader
from service.wire.places import found_at, tagged

MOST_FAULTS = 20
_NAME_LENGTH = 64
Request = TypeVar("Request", bound=Strict)
_TENSORS = ("query", "key", "value", "logits", "weights")
_OBJECT = "expected an object"
_OBJECT_KINDS = ("model_type", "model_attributes_type", "dict_type")


def validate(model: type[Request], document: dict[str, object], settings: Settings) -> Request:
    """Validate strictly; tensors are read on the way.

    Raises:
        Invalid: what is wrong and where, at most 20 faults, without the caller's values.
    """
    try:
        return model.model_validate(document, context={"read_tensor": reader(settings)})
    except ValidationError as error:
        raise invalid(error, model) from None


def invalid(error: ValidationError, model: type[Strict]) -> Invalid:
    """Faults with JSON pointers; the caller's values are never repeated."""
    count = error.error_count()
    found = error.errors(include_url=False)
    faults = tuple(_fault(item, model) for item in found[:MOST_FAULTS])
    first = faults[0]
    more = f" ({count - 1} more)" if count > 1 else ""
    return Invalid(f"{first.pointer or 'the request'}: {first.detail}{more}", faults=faults)


def _fault(item: ErrorDetails, root: type[Strict]) -> Fault:
    """One error in words: what was expected, what kind of thing was found, what is allowed."""
    kind = item["type"]
    steps, annotation = found_at(root, item["loc"])
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return _wrong_tag(item, steps, annotation, missing=kind == "union_tag_not_found")
    if kind == "extra_forbidden":
        return Fault(pointer(steps), _unknown_field(root, item["loc"]))
    expected = _OBJECT if kind in _OBJECT_KINDS else item["msg"].removeprefix("Value error, ")
    misfit = kind == "literal_error" and not isinstance(item["input"], str)
    if kind.endswith(("_type", "_parsing")) or misfit:
        expected += f"; found {json_kind(item['input'])}"
    return Fault(pointer(steps), expected)


def _wrong_tag(
    item: ErrorDetails, steps: tuple[int | str, ...], annotation: object, *, missing: bool
) -> Fault:
    """A union's tag is none of those on offer; pydantic's own words would repeat what was sent."""
    found = item["input"]
    if not isinstance(found, dict):
        return Fault(pointer(steps), f"{_OBJECT}; found {json_kind(found)}")
    known = ", ".join(tagged(annotation))
    told = "the field is missing; expected" if missing and "kind" not in found else "expected"
    return Fault(f"{pointer(steps)}/kind", f"{told} one of {known}")


def _unknown_field(root: type[Strict], place: tuple[int | str, ...]) -> str:
    """What is allowed here, and where misplaced tensors belong."""
    _, model = found_at(root, place[:-1])
    known = ""
    if isinstance(model, type) and issubclass(model, Strict):
        known = f"; known are {', '.join(model.model_fields)}"
    if model is ScaledDotProduct:
        _, union = found_at(root, place[:-2])
        known += f'. Without "kind" it is this one of {", ".join(tagged(union))}'
    if model is root and "inputs" in root.model_fields and place[0] in _TENSORS:
        known += '. Tensors go into inputs: {"inputs": {"kind": "tensors", "query": …}}'
    return f"unknown field{known}"


@contextmanager
def blaming(
    name: str | None, *, kind: str = "group", moved: tuple[str, str] | None = None
) -> Iterator[None]:
    """What is invalid inside is said of this group of a file, or whatever else has a name.

    `moved` is a pointer's beginning, and what stands there in the caller's request.
    """
    try:
        yield
    except Invalid as error:
        if name is None:
            raise
        faults = tuple(_moved(fault, moved) for fault in error.faults)
        raise type(error)(f"{kind} {_printed(name)}: {error.detail}", faults=faults) from None


def _moved(fault: Fault, moved: tuple[str, str] | None) -> Fault:
    if moved is None or not f"{fault.pointer}/".startswith(f"{moved[0]}/"):
        return fault
    return Fault(moved[1] + fault.pointer.removeprefix(moved[0]), fault.detail)


def pointer(steps: tuple[int | str, ...]) -> str:
    """A JSON pointer (RFC 6901)."""
    return "".join(f"/{_escaped(step)}" for step in steps)


def _escaped(step: int | str) -> str:
    return _printed(str(step)).replace("~", "~0").replace("/", "~1")


def _printed(name: str) -> str:
    text = name.encode("utf-8", "backslashreplace").decode()
    if len(text) > _NAME_LENGTH:
        text = text[:_NAME_LENGTH] + "…"
    return "".join(c if c.isprintable() else "�" for c in text)
