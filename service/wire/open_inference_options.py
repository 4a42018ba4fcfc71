"""The outputs and the flat parameters of an inference."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from schemas import open_inference
from service.errors import ProtocolViolation
from service.wire.open_inference_models import Model

_TO_BINARY = "binary_data_output"
_IGNORED = ("priority", _TO_BINARY, "timeout")
_REFUSED = {
    "triton_": "names that begin with triton_ are the protocol's own",
    "sequence_": "the models keep nothing from one request to the next",
    "headers": "headers are not forwarded to the models",
}


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """An output, as bytes or as JSON."""

    name: str
    binary: bool


def requested_outputs(
    outputs: Sequence[open_inference.RequestedOutput],
    parameters: Mapping[str, object],
    model: Model,
) -> tuple[RequestedOutput, ...]:
    """The outputs in the order they are named; `output` alone where none is.

    Raises:
        ProtocolViolation: an unknown output, one named twice, or an option not supported here.
    """
    binary = _truth(parameters, _TO_BINARY, "/parameters", default=False)
    found: dict[str, RequestedOutput] = {}
    for index, output in enumerate(outputs):
        place = f"/outputs/{index}"
        if output.name not in model.outputs:
            raise ProtocolViolation(
                f"output {index} is none of model {model.name}, whose outputs are "
                f"{', '.join(model.outputs)}",
                pointer=f"{place}/name",
            )
        if output.name in found:
            raise ProtocolViolation(f"output {output.name} is named twice", pointer=place)
        options = output.parameters or {}
        _check_options(output.name, options, f"{place}/parameters")
        own = _truth(options, "binary_data", f"{place}/parameters", default=binary)
        found[output.name] = RequestedOutput(output.name, own)
    return tuple(found.values()) or (RequestedOutput("output", binary),)


def _check_options(name: str, options: Mapping[str, object], place: str) -> None:
    for option in options:
        if option == "classification":
            what = "classification is not supported here: outputs are no classes"
        elif option.startswith("shared_memory"):
            what = "shared memory is not supported here"
        elif option != "binary_data":
            what = "the only parameter is binary_data"
        else:
            continue
        raise ProtocolViolation(f"output {name}: {what}", pointer=place)


def _truth(options: Mapping[str, object], name: str, place: str, *, default: bool) -> bool:
    value = options.get(name, default)
    if not isinstance(value, bool):
        raise ProtocolViolation(f"{name} must be true or false", pointer=f"{place}/{name}")
    return value


def model_parameters(parameters: Mapping[str, object], model: Model) -> dict[str, object]:
    """The parameters that are the model's own.

    `priority` is taken and ignored, as Triton does where no priorities are configured. What would
    keep a state, or forward something, is refused: ignoring it would give another answer than the
    caller counts on.

    Raises:
        ProtocolViolation: a reserved name, or one that means nothing here.
    """
    own: dict[str, object] = {}
    for name, value in parameters.items():
        if name in model.parameters:
            own[name] = value
        elif name not in _IGNORED:
            raise _unknown(name, model)
    return own


def _unknown(name: str, model: Model) -> ProtocolViolation:
    for start, reason in _REFUSED.items():
        if name.startswith(start):
            return ProtocolViolation(f"parameter {start}…: {reason}", pointer="/parameters")
    known = ", ".join((*model.parameters, *_IGNORED))
    return ProtocolViolation(
        f"unknown parameter; those of model {model.name} are {known}", pointer="/parameters"
    )


def timeout_s(parameters: Mapping[str, object]) -> float | None:
    """The parameter `timeout`, microseconds as a whole number; None and 0 mean the setting's.

    Raises:
        ProtocolViolation: it is something else.
    """
    value = parameters.get("timeout", 0)
    if type(value) is not int or value < 0:
        raise ProtocolViolation(
            "timeout must be a whole number of microseconds", pointer="/parameters/timeout"
        )
    return value / 1e6 or None
