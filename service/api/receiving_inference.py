"""The body of an inference: any Content-Type, compressed or not, held in memory as it grows."""

from dataclasses import dataclass

from fastapi import Request

from service.api.bodies import Bound, byte_count, read_body, reserved_bytes
from service.api.codings import body_coding
from service.api.negotiation import asked_timeout_s
from service.api.state import State
from service.api.stays import stay_of
from service.engine.admission import Stay
from service.wire.compression import inflate, most_inflated
from service.wire.open_inference_call import ADVICE

HEADER_LENGTH = "Inference-Header-Content-Length"
_JSON = Bound("max_json_bytes", ADVICE)
_BYTES = Bound("max_body_bytes", "Send fewer at a time, or raise the setting.")


@dataclass(frozen=True, slots=True)
class ReceivedInference:
    """A body as it was before compression, the bytes of JSON it begins with, and what is held.

    `timeout_s` is how long the header says that the caller waits.
    """

    body: bytearray
    header_length: int | None
    stay: Stay
    timeout_s: float | None


async def received_inference(http: Request, state: State) -> ReceivedInference:
    """Read and decompress the body; its memory and a place are held until the answer is sent.

    Raises:
        UnsupportedMedia, Malformed, LimitExceeded, Busy, BodyTimeout, Invalid: whatever is wrong
            with it.
    """
    stay, timeout_s = stay_of(http), asked_timeout_s(http.headers)
    header_length = byte_count(http, HEADER_LENGTH)
    body = await _body(http, state, stay, only_json=header_length is None)
    stay.keep(len(body))
    return ReceivedInference(body, header_length, stay, timeout_s)


async def _body(http: Request, state: State, stay: Stay, *, only_json: bool) -> bytearray:
    settings, coding = state.settings, body_coding(http.headers)
    bound = _JSON if only_json and coding is None else _BYTES
    reserved = reserved_bytes(http, bound, settings)
    state.engine.admission.refuse_if_full()
    stay.hold(reserved)
    body = await read_body(http, bound, settings)
    stay.keep(len(body))
    stay.take_place()
    if coding is None:
        return body
    decoded = _JSON.field if only_json else "max_decoded_bytes"
    allowed, setting = getattr(settings, decoded), settings.name_of(decoded)
    stay.hold(most_inflated(len(body), allowed))
    return await state.engine.code(lambda: inflate(body, coding, allowed=allowed, setting=setting))
