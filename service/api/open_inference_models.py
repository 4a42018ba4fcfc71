"""Open Inference Protocol v2: a model's metadata, configuration and readiness."""

from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Path, Request

from schemas.open_inference import (
    ConfigInput,
    ConfigOutput,
    ConfigString,
    InstanceGroup,
    LatestVersions,
    ModelConfig,
    ModelMetadata,
    ModelReady,
    TensorMetadata,
    VersionPolicy,
)
from service.api.documentation import problems
from service.api.state import state_of
from service.engine.devices import resolve
from service.errors import Draining, UnknownModel
from service.wire.open_inference_models import MODELS, VERSION, Input, Model, Output

TAG = "open inference"
router = APIRouter(prefix="/v2", tags=[TAG])
PLATFORM = "attention_analysis"
Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])

_ModelName = Annotated[
    str,
    Path(
        description="A mechanism.",
        examples=[next(iter(MODELS))],
        json_schema_extra={"enum": list(MODELS)},
    ),
]
_ModelVersion = Annotated[
    str,
    Path(description="The only one.", examples=[VERSION], json_schema_extra={"enum": [VERSION]}),
]


async def _named(model: _ModelName) -> None:
    """Documents the path of a model."""


async def _versioned(model: _ModelName, version: _ModelVersion) -> None:
    """Documents the path of a version."""


def on_model(
    rooms: APIRouter, method: str, suffix: str, name: str, **options: Any
) -> Callable[[Endpoint], Endpoint]:
    """Register an operation on a model, and the same on its only version."""

    def register(endpoint: Endpoint) -> Endpoint:
        for place, ending, known in (
            ("", "", _named),
            ("/versions/{version}", "_of_version", _versioned),
        ):
            rooms.add_api_route(
                f"/models/{{model}}{place}{suffix}",
                endpoint,
                methods=[method],
                name=name + ending,
                dependencies=[Depends(known)],
                **options,
            )
        return endpoint

    return register


def model_of(http: Request) -> Model:
    """The model that the path names.

    Raises:
        UnknownModel: there is none of that name, or not in that version.
    """
    name, version = http.path_params["model"], http.path_params.get("version", VERSION)
    if name not in MODELS:
        raise UnknownModel(f"no such model; the models are {', '.join(MODELS)}")
    if version != VERSION:
        raise UnknownModel(f"model {name} has no such version; its only one is {VERSION}")
    return MODELS[name]


def refuse_unless_ready(http: Request) -> None:
    """For what only a service that takes work answers with 200.

    Raises:
        Draining: it is warming up, stopping, or hangs.
    """
    if (reason := state_of(http).engine.unready_reason()) is not None:
        raise Draining(reason)


@on_model(
    router,
    "GET",
    "/ready",
    "oip_model_ready",
    summary="Does the model take work?",
    responses=problems(404, 422, 500, 503),
)
async def oip_model_ready(http: Request) -> ModelReady:
    """503 whenever the service as a whole is not ready."""
    name = model_of(http).name
    refuse_unless_ready(http)
    return ModelReady(name=name, ready=True)


@on_model(
    router,
    "GET",
    "/config",
    "oip_model_config",
    summary="The model's configuration, as Triton writes it",
    responses=problems(404, 422, 500),
)
async def oip_model_config(http: Request) -> ModelConfig:
    """Inputs and outputs with their datatypes, where it runs, and under `parameters` the names of
    the flat parameters that a request may have and the datatypes that an input may have.
    """  # noqa: D205 - shown on the docs page
    return _config(model_of(http).name)


@on_model(
    router,
    "GET",
    "",
    "oip_model_metadata",
    summary="What the model takes and gives",
    responses=problems(404, 422, 500),
)
async def oip_model_metadata(http: Request) -> ModelMetadata:
    """Tensors by name. −1 is any extent; query, key, value and masks may lack the axes for batch
    and head. All inputs but `query` are optional, and FP32 stands for FP16, BF16 and FP64 too:
    `output` and `weights` have the datatype of the inputs, logits and scores FP64 where those do.
    """  # noqa: D205 - shown on the docs page
    return _metadata(model_of(http).name)


def _tensor(tensor: Input | Output) -> TensorMetadata:
    datatype = tensor.datatype if isinstance(tensor, Output) else tensor.datatypes[0]
    return TensorMetadata(name=tensor.name, datatype=datatype, shape=[-1] * tensor.rank)


@cache
def _metadata(name: str) -> ModelMetadata:
    model = MODELS[name]
    return ModelMetadata(
        name=name,
        versions=[VERSION],
        platform=PLATFORM,
        inputs=[_tensor(tensor) for tensor in model.inputs.values()],
        outputs=[_tensor(tensor) for tensor in model.outputs.values()],
    )


@cache
def _config(name: str) -> ModelConfig:
    model, metadata = MODELS[name], _metadata(name)
    taken = {t.name: f"{t.name}: {' '.join(t.datatypes)}" for t in model.inputs.values()}
    said = {
        "request_parameters": ", ".join(model.parameters),
        "input_datatypes": "; ".join(taken.values()),
    }
    on_gpu = resolve("auto").type == "cuda"
    return ModelConfig(
        name=name,
        platform=PLATFORM,
        backend="",
        version_policy=VersionPolicy(latest=LatestVersions(num_versions=1)),
        max_batch_size=0,
        input=[
            ConfigInput(
                name=tensor.name,
                data_type=f"TYPE_{tensor.datatype}",
                dims=tensor.shape,
                optional=model.inputs[tensor.name].optional,
            )
            for tensor in metadata.inputs
        ],
        output=[
            ConfigOutput(name=tensor.name, data_type=f"TYPE_{tensor.datatype}", dims=tensor.shape)
            for tensor in metadata.outputs
        ],
        instance_group=[
            InstanceGroup(name=name, kind="KIND_GPU" if on_gpu else "KIND_CPU", count=1)
        ],
        parameters={key: ConfigString(string_value=value) for key, value in said.items()},
    )
