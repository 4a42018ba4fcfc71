"""Tensors in JSON: nested lists, flat data with a shape, or base64 of little-endian bytes.

A tensor field accepts whatever the reader in the validation context makes of it, so that the
wire decides how bytes become tensors while this package stays free of any tensor library. The
models here are for the document: what no schema can say (lists that are not ragged, as many
elements as the shape needs) the reader refuses.
"""

from typing import Annotated, Any, Literal, Protocol

from pydantic import Field, PlainValidator, RootModel, ValidationInfo

from schemas.strict import Strict

Dtype = Literal["float16", "bfloat16", "float32", "float64"]
Role = Literal["number", "number_or_forbidden", "boolean", "integer"]
"""What the elements of a field are; `number_or_forbidden` reads JSON null as minus infinity."""

_FLOAT32_MAX = 3.4028234663852886e38
_Number = Annotated[float, Field(ge=-_FLOAT32_MAX, le=_FLOAT32_MAX)]
_Integer = Annotated[int, Field(ge=-(2**63), lt=2**63)]
_Natural = Annotated[int, Field(ge=0, lt=2**63)]
_Shape = Annotated[list[_Natural], Field(max_length=4, examples=[[2, 3]])]

_Numbers = list[_Number]
_Logits = list[_Number | None]
_Booleans = list[bool]


class NestedNumbers(
    RootModel[_Numbers | list[_Numbers] | list[list[_Numbers]] | list[list[list[_Numbers]]]]
):
    """float32, a list within a list for each axis."""


class NestedLogits(
    RootModel[_Logits | list[_Logits] | list[list[_Logits]] | list[list[list[_Logits]]]]
):
    """float32, a list within a list for each axis; null = minus infinity."""


class NestedBooleans(
    RootModel[_Booleans | list[_Booleans] | list[list[_Booleans]] | list[list[list[_Booleans]]]]
):
    """A list within a list for each axis."""


class FlatNumbers(Strict):
    """The elements in row-major order, or base64 of their little-endian bytes."""

    shape: _Shape = Field(description="Extents, outermost first.")
    dtype: Dtype = "float32"
    data: list[float] | str = Field(examples=[[1, 2, 3, 4, 5, 6]])


class FlatLogits(Strict):
    """The elements in row-major order, or base64 of their little-endian bytes."""

    shape: _Shape = Field(description="Extents, outermost first.")
    dtype: Dtype = "float32"
    data: list[float | None] | str = Field(examples=[[1, 2, 3, 4, 5, None]])


class FlatBooleans(Strict):
    """The elements in row-major order, or base64 of one byte for each, 0 or 1."""

    shape: _Shape = Field(description="Extents, outermost first.")
    dtype: Literal["bool"] = "bool"
    data: list[bool] | str = Field(examples=[[True, False, True, True, False, True]])


class FlatIntegers(Strict):
    """The elements in row-major order, or base64 of their little-endian bytes."""

    shape: _Shape = Field(description="Extents, outermost first.", examples=[[2]])
    dtype: Literal["int64"] = "int64"
    data: list[_Integer] | str = Field(examples=[[5, 7]])


class TensorReader(Protocol):
    """Makes a tensor of what a field holds, or raises a validation error."""

    def __call__(self, value: object, role: Role) -> object:
        """Read `value`, whose elements are what `role` says."""


def _read(role: Role, documented: Any) -> PlainValidator:
    def read(value: object, info: ValidationInfo) -> object:
        context = info.context or {}
        reader: TensorReader | None = context.get("read_tensor")
        return value if reader is None else reader(value, role)

    return PlainValidator(read, json_schema_input_type=documented)


NumberTensor = Annotated[Any, _read("number", NestedNumbers | FlatNumbers)]
LogitTensor = Annotated[Any, _read("number_or_forbidden", NestedLogits | FlatLogits)]
BooleanTensor = Annotated[Any, _read("boolean", NestedBooleans | FlatBooleans)]
Lengths = Annotated[Any, _read("integer", list[_Natural] | FlatIntegers)]
Position = Annotated[Any, _read("integer", _Integer | list[_Integer] | FlatIntegers)]
"""One integer for all, or a vector of them."""
