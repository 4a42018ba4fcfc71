"""application/json: the request with its tensors in one document."""

from contextlib import suppress

from service.errors import ServiceError
from service.settings import Settings
from service.wire.calls import Call, Request
from service.wire.documents import parse_request
from service.wire.json_numbers import document_of
from service.wire.validation import validate


def decode(model: type[Request], body: bytearray, settings: Settings) -> Call[Request]:
    """Read a call; an empty body is the empty request.

    Raises:
        Malformed: not JSON.
        Invalid: not a valid request.
    """
    if not body or body.isspace():
        return Call(((None, validate(model, {}, settings)),))
    with suppress(ServiceError):
        document = document_of(body, settings)
        if document is not None:
            return Call(((None, validate(model, document, settings)),))
    return Call(((None, validate(model, parse_request(body, settings), settings)),))
