"""application/json: the request with its tensors in one document."""

from service.settings import Settings
from service.wire.calls import Call, Request
from service.wire.documents import parse_request
from service.wire.validation import validate


def decode(model: type[Request], body: bytearray, settings: Settings) -> Call[Request]:
    """Read a call; an empty body is the empty request.

    Raises:
        Malformed: not JSON.
        Invalid: not a valid request.
    """
    document = parse_request(body, settings) if body.strip() else {}
    return Call(((None, validate(model, document, settings)),))
