"""Tensors in JSON: nested lists, flat data with a shape, or base64 of little-endian bytes.

A tensor field accepts whatever the reader in the validation context makes of it, so that the
wire decides how bytes become tensors while this package stays free of any tensor library.
"""

from typing import Annotated, Any, Literal, Protocol

from pydantic import Field, PlainValidator, ValidationInfo

from schemas.strict import Strict

Dtype = Literal["float16", "bfloat16", "float32", "float64"]
AnyDtype = Literal["float16", "bfloat16", "float32", "float64", "bool", "int64"]
Role = Literal["number", "number_or_forbidden", "boolean", "integer"]
"""What the elements of a field are; `number_or_forbidden` reads JSON null as minus infinity."""

_Number = float | None
_Row = list[_Number | bool]
NestedList = _Row | list[_Row] | list[list[_Row]] | list[list[list[_Row]]]


class FlatTensor(Strict):
    """A shape, a dtype and the elements in row-major order."""

    shape: list[int] = Field(description="Extents, outermost first.", examples=[[2, 3]])
    dtype: AnyDtype = "float32"
    data: list[float | bool | None] | str = Field(
        description="The elements flat, or base64 of their little-endian bytes.",
        examples=[[1, 2, 3, 4, 5, 6]],
    )


class TensorReader(Protocol):
    """Makes a tensor of what a field holds, or raises a validation error."""

    def __call__(self, value: object, role: Role) -> object:
        """Read `value`, whose elements are what `role` says."""


def _read(role: Role) -> PlainValidator:
    def read(value: object, info: ValidationInfo) -> object:
        context = info.context or {}
        reader: TensorReader | None = context.get("read_tensor")
        return value if reader is None else reader(value, role)

    return PlainValidator(read, json_schema_input_type=NestedList | FlatTensor)


NumberTensor = Annotated[Any, _read("number")]
LogitTensor = Annotated[Any, _read("number_or_forbidden")]
BooleanTensor = Annotated[Any, _read("boolean")]
IntegerVector = Annotated[Any, _read("integer")]
