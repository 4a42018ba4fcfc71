"""Where an error of the validator stands in a request: its place without the names of unions."""

from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, Tag


def found_at(root: type[BaseModel], place: tuple[int | str, ...]) -> tuple[tuple[Any, ...], object]:
    """The steps of a JSON pointer, and what the models say may stand there (None = anything).

    pydantic puts the tag of a union's member behind the field; it is no part of the request.
    """
    steps: list[int | str] = []
    current: object = root
    for step in place:
        members = tagged(current)
        if isinstance(step, str) and step in members:
            current = members[step]
        else:
            steps.append(step)
            current = _below(current, step)
    return tuple(steps), current


def tagged(annotation: object) -> dict[str, object]:
    """The members of a tagged union by their tags; empty where it is none."""
    members = [m for m in _members(annotation) if m is not type(None)]
    named = {tag: _bare(member) for member in members if (tag := _tag(member)) is not None}
    return named if len(named) > 1 else {}


def _below(annotation: object, step: int | str) -> object:
    """What may stand one step further."""
    for member in map(_bare, _members(annotation)):
        if isinstance(step, int) and get_origin(member) is list:
            return get_args(member)[0]
        if isinstance(member, type) and issubclass(member, BaseModel):
            field = member.model_fields.get(str(step))
            return None if field is None else field.annotation
    return None


def _members(annotation: object) -> list[object]:
    """The members of a union, those of unions inside it among them."""
    bare = _bare(annotation)
    if get_origin(bare) not in (Union, UnionType):
        return [annotation]
    return [inner for member in get_args(bare) for inner in _members(member)]


def _bare(annotation: object) -> object:
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return annotation


def _tag(member: object) -> str | None:
    """Of an annotation, or the literal of the model's `kind`."""
    if get_origin(member) is Annotated:
        for told in get_args(member)[1:]:
            if isinstance(told, Tag):
                return told.tag
    model = _bare(member)
    if isinstance(model, type) and issubclass(model, BaseModel) and "kind" in model.model_fields:
        literal = model.model_fields["kind"].annotation
        return str(get_args(literal)[0]) if get_origin(literal) is Literal else None
    return None
