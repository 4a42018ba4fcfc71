"""One inference of the Open Inference Protocol, as the analysis it asks for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from schemas.attention import AttentionRequest
from schemas.open_inference import InferRequest
from service.errors import Invalid, Malformed, ProtocolViolation
from service.limits import within
from service.settings import Settings
from service.wire.calls import Call
from service.wire.documents import parse_request
from service.wire.open_inference_models import Model, Place
from service.wire.open_inference_options import (
    RequestedOutput,
    model_parameters,
    requested_outputs,
    timeout_s,
)
from service.wire.open_inference_places import Places, told_by
from service.wire.open_inference_tensors import read_tensors
from service.wire.torch_names import translated
from service.wire.validation import validate

ADVICE = "Send larger tensors as bytes behind the JSON (binary_data_size)."
_OPERANDS = ("query", "key", "value")


@dataclass(frozen=True, slots=True)
class Inference:
    """The analysis that is asked for, and how it is answered; `places` tell errors of it."""

    call: Call[AttentionRequest]
    model: Model
    id: str | None
    outputs: tuple[RequestedOutput, ...]
    timeout_s: float | None
    places: Places


def decode(
    body: bytearray, header_length: int | None, model: Model, settings: Settings
) -> Inference:
    """Read an inference.

    Args:
        body: as it was before any compression.
        header_length: bytes of JSON in front of binary tensors; None where all of it is JSON.
        model: the mechanism that is asked.
        settings: the limits.

    Raises:
        Malformed: the JSON is none, or not where it should be.
        ProtocolViolation: not as the protocol or the model's metadata has it.
        Invalid: values that mean nothing here.
        LimitExceeded: more than a setting allows.
    """
    request = _envelope(body, header_length, settings)
    tensors = read_tensors(request.inputs, model, body, header_length, settings)
    parameters = request.parameters or {}
    outputs = requested_outputs(request.outputs or (), parameters, model)
    known = Places(model, {tensor.name: i for i, tensor in enumerate(request.inputs)})
    with told_by(known):
        document = _document(model, tensors, model_parameters(parameters, model))
        document["include"] = list(
            dict.fromkeys(i for output in outputs for i in model.outputs[output.name].include)
        )
        call = Call(((None, validate(AttentionRequest, document, settings)),))
    return Inference(call, model, request.id or None, outputs, timeout_s(parameters), known)


def _envelope(body: bytearray, header_length: int | None, settings: Settings) -> InferRequest:
    if header_length is not None and header_length > len(body):
        raise Malformed(
            f"Inference-Header-Content-Length is {header_length:,}; the body has {len(body):,} "
            "bytes"
        )
    text = body if header_length is None else body[:header_length]
    within(settings, "max_json_bytes", len(text), "the JSON of the body, in bytes", ADVICE)
    try:
        return validate(InferRequest, parse_request(text, settings, ADVICE), settings)
    except Invalid as error:
        raise ProtocolViolation(error.detail, faults=error.faults) from None


def _document(
    model: Model, tensors: Mapping[str, Tensor], parameters: Mapping[str, object]
) -> dict[str, object]:
    """The request that POST /v1/attention would take, with tensors in their places."""
    drawn = _is_drawn(tensors, parameters)
    document: dict[str, object] = {
        "mechanism": {"kind": model.name},
        "inputs": {"kind": "seeded" if drawn else "tensors"},
    }
    weights = {n: t for n, t in tensors.items() if _of_mechanism(model.inputs[n].place)}
    _refuse_idle(model, parameters, drawn=drawn, given=bool(weights))
    for name, value in parameters.items():
        _put(document, model.parameters[name], value)
    for name, tensor in tensors.items():
        if name in parameters:
            raise ProtocolViolation(
                f"{name} is given both as an input and as a parameter",
                pointer=f"/parameters/{name}",
            )
        if name not in weights:
            _put(document, model.inputs[name].place, tensor)
    if weights:
        _put(document, ("mechanism", "parameters"), {"kind": "given", **translated(weights)})
    return document


def _is_drawn(tensors: Mapping[str, Tensor], parameters: Mapping[str, object]) -> bool:
    """Whether query, key and value are drawn from a seed, because none of them is given."""
    if "query" in tensors:
        return False
    if "seed" in parameters and not any(name in tensors for name in _OPERANDS):
        return True
    raise ProtocolViolation(
        "input query is missing (without query, key and value, the parameter seed draws them)",
        pointer="/inputs",
    )


def _of_mechanism(place: Place) -> bool:
    return place[:2] == ("mechanism", "parameters")


def _refuse_idle(
    model: Model, parameters: Mapping[str, object], *, drawn: bool, given: bool
) -> None:
    """What draws tensors must not be named beside the tensors: it would silently do nothing."""
    for name in parameters:
        place = model.parameters[name]
        what = ""
        if place[0] == "inputs" and not drawn:
            what = "query, key and value that are drawn from a seed; they are given as inputs"
        if _of_mechanism(place) and given:
            what = "learned weights that are drawn from a seed; they are given as inputs"
        if what:
            raise Invalid(f"parameter {name} is of {what}", pointer=f"/parameters/{name}")


def _put(document: dict[str, Any], place: Place, value: object) -> None:
    for step in place[:-1]:
        document = document.setdefault(step, {})
    document[place[-1]] = value
