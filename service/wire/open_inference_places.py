"""Errors told in the words of whoever called by the Open Inference Protocol."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

from service.errors import Fault, Invalid
from service.wire.open_inference_models import Model, Place
from service.wire.torch_names import targets
from service.wire.validation import pointer

_ROOMS = {
    "/mechanism/parameters": "/inputs",
    "/mechanism": "/parameters",
    "/mask": "/parameters",
    "/compute": "/parameters",
}


@dataclass(frozen=True, slots=True)
class Told:
    """Where something stands in the caller's request, and what to call it."""

    pointer: str
    words: str


@dataclass(frozen=True)
class Places:
    """Where everything stands; `given` are the inputs with their position."""

    model: Model
    given: Mapping[str, int]

    @cached_property
    def known(self) -> Mapping[str, Told]:
        """By the JSON pointer of the same thing in a request of POST /v1/attention.

        Worked out for who is told an error: it would take a tenth of a small inference.
        """
        return _known(self.model, self.given)


def _known(model: Model, given: Mapping[str, int]) -> Mapping[str, Told]:
    found = {old: Told(new, f"the {new[1:]}") for old, new in _ROOMS.items()}
    for name, place in model.parameters.items():
        found[pointer(place)] = Told(f"/parameters/{name}", f"parameter {name}")
    for tensor in model.inputs.values():
        found.setdefault(pointer(tensor.place), Told("/inputs", f"input {tensor.name}"))
    for name, index in given.items():
        for place in _stands_for(model.inputs[name].place):
            found[pointer(place)] = Told(f"/inputs/{index}", f"input {name}")
    return found


def _stands_for(place: Place) -> list[Place]:
    """Weights under torch's names are known by this service's own."""
    return [(*place[:-1], target) for target in targets(place[-1])]


@contextmanager
def told_by(places: Places) -> Iterator[None]:
    """What is invalid inside is said of the caller's inputs and parameters."""
    try:
        yield
    except Invalid as error:
        known = places.known
        faults = tuple(_moved(fault, known) for fault in error.faults)
        detail = error.detail
        for fault in error.faults[:1]:
            told = known.get(fault.pointer)
            start = f"{fault.pointer}: "
            if told is not None and detail.startswith(start):
                detail = f"{told.words}: {detail.removeprefix(start)}"
        raise type(error)(detail, faults=faults) from None


def _moved(fault: Fault, known: Mapping[str, Told]) -> Fault:
    """The longest beginning that is known is exchanged."""
    steps = fault.pointer.split("/")
    for length in range(len(steps), 1, -1):
        told = known.get("/".join(steps[:length]))
        if told is not None:
            return Fault(told.pointer + "".join(f"/{s}" for s in steps[length:]), fault.detail)
    return fault
