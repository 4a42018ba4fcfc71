"""application/x-safetensors: tensors by name, the rest of the request as JSON beside them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pydantic_core import PydanticCustomError
from torch import Tensor

from service.errors import Invalid, UnknownEntry
from service.limits import within
from service.settings import Settings
from service.wire.calls import Call, Request
from service.wire.safetensors_header import (
    DTYPES,
    Entry,
    parse_embedded,
    read_header,
    told_dtype,
)
from service.wire.tensor_bytes import from_bytes
from service.wire.torch_names import OWN_NAMES, TORCH_NAMES, translated
from service.wire.validation import blaming, pointer, validate

INPUTS = ("query", "key", "value", "logits", "weights")
MASKS = {
    "mask.allowed": "allowed",
    "mask.bias": "bias",
    "mask.key_lengths": "key_lengths",
    "key_lengths": "key_lengths",
    "mask.offset": "offset",
}
PREFIX = "parameters."
PARAMETERS = tuple(f"{PREFIX}{name}" for name in (*OWN_NAMES, *TORCH_NAMES))
# The longest first: `a.mask.bias` ends in no shorter name.
_KNOWN = dict.fromkeys(sorted((*MASKS, *INPUTS, *PARAMETERS), key=len, reverse=True))


@dataclass(slots=True)
class _Group:
    """The entries of one group, by what they are."""

    inputs: dict[str, Entry] = field(default_factory=dict)
    masks: dict[str, Entry] = field(default_factory=dict)
    parameters: dict[str, Entry] = field(default_factory=dict)


def decode(
    model: type[Request], body: bytearray, settings: Settings, request: str | None
) -> Call[Request]:
    """Read a call from a file as it lies.

    Args:
        model: what is asked for.
        body: the file.
        settings: the limits.
        request: the rest of the request as JSON, from the query string; it wins over the metadata.

    Raises:
        Malformed: not safetensors, or the embedded request is not JSON.
        UnknownEntry: entries that mean nothing here, unless they are to be ignored.
        Invalid: not a valid request.
    """
    entries, options = _opened(body, settings, request)
    groups, unknown = _sort(entries)
    if unknown and options.get("ignore_unknown") is not True:
        raise _unknown(unknown)
    shared = groups.pop(None, _Group())
    named = {name: g for name, g in groups.items() if name is not None and g.inputs}
    if shared.inputs and named:
        raise Invalid(
            "the file has entries with and without a group: name all of them <group>.query, or none"
        )
    within(settings, "max_groups", len(named), "the file, in groups")
    if not named and not shared.inputs and "inputs" not in options:
        raise Invalid(
            f"the file holds none of {', '.join(INPUTS)}, and the request gives no inputs",
            pointer="/inputs",
        )
    members: list[tuple[str | None, _Group]] = [(n, named[n]) for n in sorted(named, key=_natural)]
    requests = []
    for name, group in members or [(None, shared)]:
        with blaming(name):
            document = _document(options, group, shared, body)
            requests.append((name, validate(model, document, settings)))
    return Call(tuple(requests), tuple(sorted((e.name for e in unknown), key=_natural)))


def decode_tensors(
    model: type[Request],
    names: tuple[str, ...],
    body: bytearray,
    settings: Settings,
    request: str | None,
) -> Request:
    """Read a request whose fields `names` are the file's entries, all of them.

    Raises:
        Malformed: not safetensors, or the embedded request is not JSON.
        UnknownEntry: other entries.
        Invalid: not a valid request.
    """
    entries, options = _opened(body, settings, request)
    unknown = sorted((e.name for e in entries if e.name not in names), key=_natural)
    if unknown:
        shown = ", ".join(_printable(name) for name in unknown[:5])
        raise UnknownEntry(f"entries must be {', '.join(names)}; found {shown}")
    if twice := options.keys() & {e.name for e in entries}:
        name = min(twice)
        raise Invalid(f"{name} is given both in the file and in the request", pointer=f"/{name}")
    tensors = {entry.name: _tensor(entry, body) for entry in entries}
    return validate(model, {**options, **tensors}, settings)


def _opened(
    body: bytearray, settings: Settings, request: str | None
) -> tuple[Sequence[Entry], Mapping[str, object]]:
    """The entries of a file, and the rest of the request beside them."""
    entries, metadata = read_header(body, settings)
    where = "query parameter request" if request is not None else "metadata entry request"
    text = metadata.get("request") if request is None else request
    return entries, {} if text is None else parse_embedded(text, settings, where)


def _sort(entries: Sequence[Entry]) -> tuple[dict[str | None, _Group], list[Entry]]:
    """Entries by group; those that are no input, and stored results, are unknown."""
    groups: dict[str | None, _Group] = {}
    unknown: list[Entry] = []
    for entry in entries:
        group, name = _split(entry.name)
        place = groups.setdefault(group, _Group())
        if name in INPUTS:
            place.inputs[name] = entry
        elif name in MASKS:
            if MASKS[name] in place.masks:
                raise Invalid(
                    f"{MASKS[name]} is given twice in the file, with and without the prefix mask.",
                    pointer=pointer((entry.name,)),
                )
            place.masks[MASKS[name]] = entry
        elif name in PARAMETERS:
            place.parameters[name.removeprefix(PREFIX)] = entry
        else:
            unknown.append(entry)
    for group, place in groups.items():
        if group is not None and not place.inputs:
            # Masks and weights of a group that is not there would silently do nothing.
            unknown += [*place.masks.values(), *place.parameters.values()]
            place.masks.clear()
            place.parameters.clear()
        if "query" in place.inputs:
            unknown += [place.inputs.pop(n) for n in ("logits", "weights") if n in place.inputs]
        elif {"logits", "weights"} <= place.inputs.keys():
            unknown.append(place.inputs.pop("weights"))
    return groups, unknown


def _split(name: str) -> tuple[str | None, str]:
    """`layer0.query` → (`layer0`, `query`); `mask.bias` → (None, `mask.bias`)."""
    if name in _KNOWN:
        return None, name
    for known in _KNOWN:
        if name.endswith(f".{known}"):
            return name[: -len(known) - 1], known
    return None, name


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Order layer2 before layer10."""
    parts = re.split(r"([0-9]{1,18})", name)
    return [(1, int(part), "") if i % 2 else (0, 0, part) for i, part in enumerate(parts)]


def _unknown(entries: list[Entry]) -> UnknownEntry:
    names = sorted((e.name for e in entries), key=_natural)
    shown = ", ".join(_printable(name) for name in names[:5])
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    bare = any(name.endswith((*OWN_NAMES, *TORCH_NAMES)) for name in names)
    prefixed = f" Learned weights are named {PREFIX}<name>." if bare else ""
    known = ", ".join((*INPUTS, *MASKS, f"{PREFIX}<name of a learned weight>"))
    return UnknownEntry(
        f"these entries are no inputs: {shown}{more}; known are {known}, each also as "
        f'<group>.<name>.{prefixed} "ignore_unknown": true ignores the rest.'
    )


def _printable(name: str) -> str:
    return "".join(c if c.isprintable() else "�" for c in name[:64])


def _document(
    options: Mapping[str, object], group: _Group, shared: _Group, body: bytearray
) -> dict[str, object]:
    """The document that the same request would be in JSON, with tensors in their places."""
    document = dict(options)
    tensors = {name: _tensor(entry, body) for name, entry in group.inputs.items()}
    if tensors:
        given = document.get("inputs")
        if given is not None:
            raise Invalid(
                "the inputs are the tensors of the file; the request must not give others",
                pointer="/inputs",
            )
        kind = next((k for k in ("logits", "weights") if k in tensors), "tensors")
        document["inputs"] = {"kind": kind, **tensors}
    masks = {name: _tensor(e, body) for name, e in {**shared.masks, **group.masks}.items()}
    if masks:
        given_mask = document.get("mask", {})
        if not isinstance(given_mask, dict) or given_mask.keys() & masks.keys():
            raise Invalid("a mask is given both in the file and in the request", pointer="/mask")
        document["mask"] = {**given_mask, **masks}
    # Each under its own name before the group's win over the shared ones.
    weights = {**_weights(shared, body), **_weights(group, body)}
    variants = document.get("variants")
    if weights and isinstance(variants, list):
        document["variants"] = [_variant(variant, weights) for variant in variants]
    elif weights:
        document["mechanism"] = _with_parameters(document.get("mechanism", {}), weights)
    return document


def _variant(variant: object, weights: dict[str, Tensor]) -> object:
    """A variant of a comparison, with the file's weights where its mechanism has any."""
    if not isinstance(variant, dict) or not isinstance(variant.get("mechanism"), dict):
        return variant
    mechanism = variant["mechanism"]
    if mechanism.get("kind") in (None, "scaled_dot_product"):
        return variant
    return {**variant, "mechanism": _with_parameters(mechanism, weights)}


def _weights(group: _Group, body: bytearray) -> dict[str, Tensor]:
    return translated({name: _tensor(entry, body) for name, entry in group.parameters.items()})


def _with_parameters(mechanism: object, weights: dict[str, Tensor]) -> dict[str, object]:
    if not isinstance(mechanism, dict):
        raise Invalid("expected an object with a kind", pointer="/mechanism")
    if "kind" not in mechanism:
        raise Invalid(
            "the file holds learned weights; the request must name the mechanism they belong to",
            pointer="/mechanism/kind",
        )
    if "parameters" in mechanism:
        raise Invalid(
            "learned weights are given both in the file and in the request",
            pointer="/mechanism/parameters",
        )
    return {**mechanism, "parameters": {"kind": "given", **weights}}


def _tensor(entry: Entry, body: bytearray) -> Tensor:
    if entry.dtype not in DTYPES:
        raise Invalid(
            f"entry {_printable(entry.name)} has {told_dtype(entry.dtype)}; accepted are "
            f"{', '.join(DTYPES)}",
            pointer=pointer((entry.name,)),
        )
    try:
        return from_bytes(body, entry.start, entry.shape, DTYPES[entry.dtype][0])
    except PydanticCustomError as error:
        raise Invalid(error.message(), pointer=pointer((entry.name,))) from None
