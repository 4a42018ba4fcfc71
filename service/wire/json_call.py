"""application/json: the request with its tensors in one document."""

from service.settings import Settings
from service.wire.calls import Call
from service.wire.documents import parse_request
from service.wire.validation import validate


def decode(body: bytearray, settings: Settings) -> Call:
    """Read a call; an empty body is the empty request.

    Raises:
        Malformed: not JSON.
        Invalid: not a valid request.
    """
    document = parse_request(body, settings) if body.strip() else {}
    return Call(((None, validate(document, settings)),))
