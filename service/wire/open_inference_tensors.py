"""The inputs of the Open Inference Protocol: elements as JSON, or bytes behind the JSON."""

import math
from collections.abc import Sequence

from pydantic_core import PydanticCustomError
from torch import Tensor

from schemas.open_inference import InferInput
from schemas.tensors import Role
from service.errors import ProtocolViolation
from service.limits import within
from service.settings import Settings
from service.wire.nested import flatten, reader
from service.wire.open_inference_models import BINARY_ONLY, DTYPES, Input, Model
from service.wire.tensor_bytes import from_bytes

_UNREAD = ("BYTES", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16")
_SIZE = "binary_data_size"
_SMALLEST, _LARGEST = -(2**31), 2**31 - 1


def read_tensors(
    inputs: Sequence[InferInput],
    model: Model,
    body: bytearray,
    header_length: int | None,
    settings: Settings,
) -> dict[str, Tensor]:
    """The tensors by name, in the order they are given; bytes are views into the body.

    Raises:
        ProtocolViolation: names, datatypes, shapes or bytes that are not as they should be.
        LimitExceeded: a tensor with too many elements.
    """
    found: dict[str, Tensor] = {}
    start = len(body) if header_length is None else header_length
    for index, given in enumerate(inputs):
        known = _known(given, index, model, found)
        size = _binary_size(given, index)
        elements = math.prod(given.shape)
        within(settings, "max_elements", elements, f"input {known.name}, in elements")
        if size is None:
            found[known.name] = _from_json(given, index, known.role, settings)
            continue
        _check_bytes(given, index, size, left=len(body) - start, framed=header_length is not None)
        try:
            tensor = from_bytes(body, start, tuple(given.shape), _dtype(given))
        except PydanticCustomError as error:
            raise _wrong(known.name, index, error.message()) from None
        found[known.name], start = tensor, start + size
    if start != len(body):
        raise ProtocolViolation(
            f"the inputs end at byte {start:,} of the body, which has {len(body):,}",
            pointer="/inputs",
        )
    return found


def _wrong(name: str, index: int, what: str, field: str = "") -> ProtocolViolation:
    return ProtocolViolation(f"input {name}: {what}", pointer=f"/inputs/{index}{field}")


def _dtype(given: InferInput) -> str:
    return str(DTYPES[given.datatype]).removeprefix("torch.")


def _known(given: InferInput, index: int, model: Model, before: dict[str, Tensor]) -> Input:
    """The model's input of that name, once its datatype is found to be one it may have."""
    known = model.inputs.get(given.name)
    if known is None:
        raise ProtocolViolation(
            f"input {index} is none of model {model.name}, whose inputs are "
            f"{', '.join(model.inputs)}",
            pointer=f"/inputs/{index}/name",
        )
    if given.name in before:
        raise _wrong(given.name, index, "it is given twice", "/name")
    if given.datatype not in known.datatypes:
        found = given.datatype if given.datatype in (*_UNREAD, *DTYPES) else "something else"
        expected = " or ".join(known.datatypes)
        raise _wrong(given.name, index, f"expected datatype {expected}; found {found}", "/datatype")
    return known


def _binary_size(given: InferInput, index: int) -> int | None:
    """Bytes behind the JSON; None where the elements are in it."""
    parameters = given.parameters or {}
    for name in parameters:
        if name.startswith("shared_memory"):
            raise _wrong(given.name, index, "shared memory is not supported here", "/parameters")
        if name != _SIZE:
            raise _wrong(given.name, index, f"the only parameter is {_SIZE}", "/parameters")
    if _SIZE not in parameters:
        return None
    size = parameters[_SIZE]
    if type(size) is not int or size < 0:
        place = f"/parameters/{_SIZE}"
        raise _wrong(given.name, index, f"{_SIZE} must be a number of bytes", place)
    return size


def _check_bytes(given: InferInput, index: int, size: int, *, left: int, framed: bool) -> None:
    """Compare what is said of the bytes with the shape, and with what there is."""
    if given.data is not None:
        raise _wrong(given.name, index, f"it has both data and {_SIZE}", "/data")
    if not framed:
        raise _wrong(
            given.name,
            index,
            "bytes behind the JSON need the header Inference-Header-Content-Length, which says "
            "where they begin",
        )
    needed = math.prod(given.shape) * DTYPES[given.datatype].itemsize
    if size != needed:
        raise _wrong(
            given.name,
            index,
            f"shape {given.shape} of {given.datatype} needs {needed:,} bytes; {_SIZE} is {size:,}",
            f"/parameters/{_SIZE}",
        )
    if size > left:
        raise _wrong(given.name, index, f"it needs {size:,} bytes; {left:,} are left in the body")


def _from_json(given: InferInput, index: int, role: Role, settings: Settings) -> Tensor:
    if given.data is None:
        raise _wrong(given.name, index, f"it has neither data nor {_SIZE}")
    if not isinstance(given.data, list):
        raise _wrong(given.name, index, "data must be a list", "/data")
    if given.datatype in BINARY_ONLY:
        raise _wrong(given.name, index, f"{given.datatype} is sent as bytes only", "/data")
    try:
        flat, nesting = flatten(given.data, role, settings)
        if len(nesting) > 1 and list(nesting) != given.shape:
            raise _wrong(
                given.name,
                index,
                f"data is nested as {list(nesting)}; shape says {given.shape}",
                "/data",
            )
        dtype = "int64" if role == "integer" else _dtype(given)
        whole = {"shape": given.shape, "dtype": dtype, "data": flat}
        tensor = reader(settings)(whole, role)
    except PydanticCustomError as error:
        raise _wrong(given.name, index, error.message(), "/data") from None
    return _checked(tensor, given, index)


def _checked(tensor: object, given: InferInput, index: int) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise TypeError
    if given.datatype == "INT32" and bool(((tensor < _SMALLEST) | (tensor > _LARGEST)).any()):
        raise _wrong(given.name, index, "an integer does not fit into 32 bits", "/data")
    return tensor
