"""Each mechanism as a model of the Open Inference Protocol: made from the code's own tables."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import torch

from schemas.attention import Compute
from schemas.inputs import SeededInputs
from schemas.masks import Mask, Window
from schemas.mechanisms import MechanismOptions, mechanism_models, parameter_models, weights_of
from schemas.parameters import SeededWeights
from schemas.tensors import Role
from service.diagnostics import DIAGNOSTICS
from service.diagnostics.included import INCLUDED
from service.extents import REPLACED
from service.mechanisms import MECHANISMS
from service.mechanisms.base import Mechanism
from service.wire.torch_names import torch_names

VERSION = "1"
Place = tuple[str, ...]
"""Where something stands in the request of POST /v1/attention."""

DTYPES = {
    "FP32": torch.float32,
    "FP64": torch.float64,
    "FP16": torch.float16,
    "BF16": torch.bfloat16,
    "BOOL": torch.bool,
    "INT64": torch.int64,
    "INT32": torch.int32,
}
"""The protocol's datatypes that are read here."""
DATATYPES = {dtype: name for name, dtype in DTYPES.items()}
BINARY_ONLY = ("FP16", "BF16")
"""JSON has no numbers of these, here as in Triton."""

_FLOATS = ("FP32", "FP64", "FP16", "BF16")
_ACCEPTED: dict[Role, tuple[str, ...]] = {
    "number": _FLOATS,
    "number_or_forbidden": _FLOATS,
    "boolean": ("BOOL",),
    "integer": ("INT64", "INT32"),
}
_MASKS: dict[str, tuple[str, Role, int]] = {
    "mask_allowed": ("allowed", "boolean", 4),
    "mask_bias": ("bias", "number_or_forbidden", 4),
    "key_lengths": ("key_lengths", "integer", 1),
    "offset": ("offset", "integer", 1),
}
_TENSORS_ONLY = ("allowed", "bias", "key_lengths")
_MATRICES = ("weights", "logits", "scores")
_RENAMED = {"seed": "parameters_seed"}


@dataclass(frozen=True, slots=True)
class Input:
    """A tensor that a model takes; `rank` is that of its metadata, and lower ones are taken too."""

    name: str
    role: Role
    rank: int
    place: Place
    optional: bool = True

    @property
    def datatypes(self) -> tuple[str, ...]:
        """Those it may have, the one of the metadata first."""
        return _ACCEPTED[self.role]


@dataclass(frozen=True, slots=True)
class Output:
    """A tensor that a model gives, and what of `include` asks for it."""

    name: str
    rank: int
    include: tuple[str, ...]
    datatype: str = "FP32"


@dataclass(frozen=True, slots=True)
class Model:
    """What a model takes and gives: tensors, and flat parameters by their place in a request."""

    name: str
    inputs: Mapping[str, Input]
    outputs: Mapping[str, Output]
    parameters: Mapping[str, Place]


def _model(schema: type[MechanismOptions]) -> Model:
    (name,) = get_args(schema.model_fields["kind"].annotation)
    member = MECHANISMS[name]
    return Model(
        name=name,
        inputs={tensor.name: tensor for tensor in _inputs(member, schema)},
        outputs={tensor.name: tensor for tensor in _outputs(member, schema)},
        parameters=_parameters(member, schema),
    )


def _rank(member: Mechanism[Any]) -> int:
    return 3 if member.undivided else 4


def _inputs(member: Mechanism[Any], schema: type[MechanismOptions]) -> Iterable[Input]:
    for name in ("query", "key", "value"):
        yield Input(name, "number", _rank(member), ("inputs", name), optional=name != "query")
    for name, (field, role, rank) in _MASKS.items():
        yield Input(name, role, rank, ("mask", field))
    own = weights_of(schema)
    for name in (*own, *torch_names(own)):
        rank = 2 if name.endswith("weight") else 1
        yield Input(name, "number", rank, ("mechanism", "parameters", name))


def _outputs(member: Mechanism[Any], schema: type[MechanismOptions]) -> Iterable[Output]:
    yield Output("output", _rank(member), ("output",))
    for name in _MATRICES:
        yield Output(name, 4, (name,))
    # Scores of a hidden layer end in a product with a vector; others have no hidden units.
    hidden = "score_vector" in weights_of(schema)
    for diagnostic in DIAGNOSTICS.values():
        if hidden or diagnostic.needs != "hidden":
            yield Output(diagnostic.name, 3, ("row_diagnostics",))
    for figure in INCLUDED.values():
        yield Output(figure.name, 3, ("row_diagnostics", figure.include))


def _parameters(member: Mechanism[Any], schema: type[MechanismOptions]) -> dict[str, Place]:
    """Every option of a request that is one number, name or truth, under one flat name."""
    own = {n: ("mechanism", n) for n in schema.model_fields if n not in ("kind", "parameters")}
    seeded = [model for model in parameter_models(schema) if issubclass(model, SeededWeights)]
    drawn = {
        _RENAMED.get(name, name): ("mechanism", "parameters", name)
        for model in seeded
        for name in model.model_fields
        if name != "kind"
    }
    mask = {n: ("mask", n) for n in Mask.model_fields if n not in (*_TENSORS_ONLY, "window")}
    window = {f"window_{side}": ("mask", "window", side) for side in Window.model_fields}
    compute = {name: ("compute", name) for name in Compute.model_fields}
    idle = ("kind", *own, *(REPLACED if member.undivided else ("model_dim",)))
    inputs = {n: ("inputs", n) for n in SeededInputs.model_fields if n not in idle}
    return {**own, **drawn, **mask, **window, **compute, **inputs}


MODELS: dict[str, Model] = {model.name: model for model in map(_model, mechanism_models())}
"""The models on offer."""
