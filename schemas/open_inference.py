"""The documents of the Open Inference Protocol v2, as KServe and Triton write them."""

from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, RootModel

from schemas.strict import Answer, Strict

DATATYPES = ("FP16", "BF16", "FP32", "FP64", "BOOL", "INT32", "INT64")
Natural = Annotated[int, Field(ge=0, lt=2**63)]


def _scalar(value: object) -> object:
    if not isinstance(value, bool | int | float | str):
        message = "expected a string, a number or a boolean"
        raise ValueError(message)  # noqa: TRY004 - pydantic tells of this one
    return value


Scalar = Annotated[Any, PlainValidator(_scalar, json_schema_input_type=bool | int | float | str)]
Parameters = Annotated[dict[str, Scalar], Field(max_length=64)]
_Row = list[float | bool | None]
_Data = _Row | list[_Row] | list[list[_Row]] | list[list[list[_Row]]]
TensorData = Annotated[Any, PlainValidator(lambda value: value, json_schema_input_type=_Data)]


class InferInput(Strict):
    """One tensor: its elements as JSON in `data`, or as bytes behind the JSON.

    The parameter `binary_data_size` says how many of those bytes are its own; tensors follow one
    another in the order of the inputs.
    """

    name: str
    shape: Annotated[list[Natural], Field(max_length=16, fail_fast=True)]
    datatype: str = Field(json_schema_extra={"enum": [*DATATYPES]}, examples=["FP32"])
    parameters: Parameters | None = None
    data: TensorData | None = Field(None, description="Flat in row-major order, or nested.")


class RequestedOutput(Strict):
    """An output by name; the parameter `binary_data` asks for bytes, or for JSON."""

    name: str
    parameters: Parameters | None = None


class InferRequest(Strict):
    """One inference: tensors by name, options as flat parameters."""

    id: Annotated[str, Field(max_length=1024)] | None = Field(
        None, description="Comes back in the answer."
    )
    parameters: Parameters | None = Field(
        None,
        description="The model's options, by name (see its config); timeout in microseconds; "
        "binary_data_output: whether outputs come as bytes where they do not say so themselves.",
    )
    inputs: Annotated[list[InferInput], Field(max_length=64, fail_fast=True)] = Field(
        [], description="None = query, key and value are drawn from the parameter seed."
    )
    outputs: Annotated[list[RequestedOutput], Field(max_length=64, fail_fast=True)] | None = Field(
        None, description="Absent or empty = output alone."
    )


class InferOutput(Answer):
    """One tensor of an answer: `data`, or as many bytes as `binary_data_size` says."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] | None = None
    data: list[Any] | None = Field(
        None, description="Flat, in row-major order; null where a number is not finite."
    )


class InferResponse(Answer):
    """What came of it; binary tensors lie behind this document, in the order of the outputs."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[InferOutput]


class ServerLive(Answer):
    """Whether the process is alive."""

    live: bool


class ServerReady(Answer):
    """Whether the service takes work."""

    ready: bool


class ModelReady(Answer):
    """Whether a model takes work."""

    name: str
    ready: bool


class ServerMetadata(Answer):
    """What serves here, and which extensions of the protocol it has."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(Answer):
    """A tensor by name; −1 is any extent."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(Answer):
    """What a model takes and gives."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ConfigInput(Answer):
    """An input, as Triton's model configuration has it."""

    name: str
    data_type: str
    dims: list[int]
    optional: bool


class ConfigOutput(Answer):
    """An output, as Triton's model configuration has it."""

    name: str
    data_type: str
    dims: list[int]


class ConfigString(Answer):
    """The value of a parameter of a configuration."""

    string_value: str


class LatestVersions(Answer):
    """How many versions are served."""

    num_versions: int


class VersionPolicy(Answer):
    """Which versions are served."""

    latest: LatestVersions


class InstanceGroup(Answer):
    """Where a model runs."""

    name: str
    kind: Literal["KIND_CPU", "KIND_GPU"]
    count: int


class ModelConfig(Answer):
    """The part of Triton's ModelConfig that means something here; the rest is its default."""

    name: str
    platform: str
    backend: str
    version_policy: VersionPolicy
    max_batch_size: int = Field(description="0: the batch is an axis of every tensor.")
    input: list[ConfigInput]
    output: list[ConfigOutput]
    instance_group: list[InstanceGroup]
    parameters: dict[str, ConfigString] = Field(
        description="request_parameters and input_datatypes: what a request may say."
    )


class Duration(Answer):
    """How often, and nanoseconds together."""

    count: int
    ns: int


class InferStatistics(Answer):
    """What became of requests, and where the time of the successful ones went."""

    success: Duration
    fail: Duration
    queue: Duration
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration


class BatchStatistics(Answer):
    """Executions of one batch size."""

    batch_size: int
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration


class ModelStatistics(Answer):
    """What a model has done since the service started."""

    name: str
    version: str
    last_inference: int = Field(description="Milliseconds since 1970; 0 = none yet.")
    inference_count: int
    execution_count: int = Field(description="Requests computed together are one execution.")
    inference_stats: InferStatistics
    batch_stats: list[BatchStatistics]


class AllStatistics(Answer):
    """Of one model, or of all."""

    model_stats: list[ModelStatistics]


class IndexRequest(Strict):
    """Which models to list."""

    ready: bool = Field(default=False, description="Only those that take work.")


class IndexedModel(Answer):
    """A model of the repository."""

    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE"]
    reason: str


class RepositoryIndex(RootModel[list[IndexedModel]]):
    """The models on offer."""
