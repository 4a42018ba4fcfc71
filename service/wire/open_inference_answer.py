"""Answers of the Open Inference Protocol: a JSON document, then the bytes of its tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from service.errors import ProtocolViolation
from service.wire.json_answer import Writer
from service.wire.open_inference_call import Inference
from service.wire.open_inference_models import BINARY_ONLY, DATATYPES, VERSION
from service.wire.open_inference_options import RequestedOutput
from service.wire.pieces import Content
from service.wire.tensor_bytes import bytes_of

_IN_THE_ANSWERS_DTYPE = ("output", "weights")
# The first tensor begins on a cache line, so that a reader in place has it aligned for any dtype.
_BOUNDARY = 64


@dataclass(frozen=True, slots=True)
class Written:
    """An answer; `header_length` counts its document, and is None where that is all of it."""

    content: Content
    header_length: int | None


def check_outputs(outputs: Sequence[RequestedOutput], answer_dtype: torch.dtype) -> None:
    """Refuse half precision as JSON before anything is computed.

    Raises:
        ProtocolViolation: an output that has the inputs' dtype, where JSON has no such numbers.
    """
    datatype = DATATYPES[answer_dtype]
    for output in outputs:
        if datatype in BINARY_ONLY and output.name in _IN_THE_ANSWERS_DTYPE and not output.binary:
            raise ProtocolViolation(
                f"output {output.name} is {datatype} as the inputs are, which is sent as bytes "
                'only: ask for it with "binary_data": true (or "binary_data_output": true)',
                pointer="/outputs",
            )


def encode(inference: Inference, tensors: Mapping[str, Tensor]) -> Written:
    """The answer to an inference; its tensors are in their final shapes."""
    writer, behind = Writer(), []
    documents: list[dict[str, object]] = []
    for output in inference.outputs:
        tensor = tensors[output.name]
        document: dict[str, object] = {
            "name": output.name,
            "datatype": DATATYPES[tensor.dtype],
            "shape": list(tensor.shape),
        }
        if output.binary:
            document["parameters"] = {"binary_data_size": tensor.nbytes}
            behind.append(bytes_of(tensor))
        else:
            document["data"] = writer.flat(tensor)
        documents.append(document)
    header = {"model_name": inference.model.name, "model_version": VERSION}
    if inference.id is not None:
        header["id"] = inference.id
    content = writer.whole({**header, "outputs": documents})
    if not behind:
        return Written(content, None)
    padding = b" " * (-len(content) % _BOUNDARY)
    framed = Content([*content.pieces, padding, *behind])
    return Written(framed, len(content) + len(padding))
