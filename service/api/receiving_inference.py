"""The body of an inference: any Content-Type, compressed or not, held in memory as it grows."""

from dataclasses import dataclass

from fastapi import Request

from service.api.bodies import Bound, byte_count, read_body
from service.api.codings import body_coding
from service.api.negotiation import asked_timeout_s
from service.api.state import State
from service.api.stays import stay_of
from service.engine.admission import Stay
from service.engine.engine import Series
from service.settings import Settings
from service.wire.compression import Coding, inflate, most_inflated
from service.wire.open_inference_call import ADVICE

HEADER_LENGTH = "Inference-Header-Content-Length"
_JSON = Bound("max_json_bytes", ADVICE)
_BYTES = Bound("max_body_bytes", "Send fewer at a time, or raise the setting.")


@dataclass(frozen=True, slots=True)
class ReceivedInference:
    """A body as it was before compression, the bytes of JSON it begins with, and what is held.

    `series` ends when the header says that the caller waits no more.
    """

    body: bytearray
    header_length: int | None
    stay: Stay
    series: Series


async def received_inference(http: Request, state: State) -> ReceivedInference:
    """Read and decompress the body; its memory and a place are held until the answer is sent.

    Raises:
        UnsupportedMedia, Malformed, LimitExceeded, Busy, BodyTimeout, Invalid: whatever is wrong
            with it.
    """
    stay, timeout_s = stay_of(http), asked_timeout_s(http.headers)
    header_length = byte_count(http, HEADER_LENGTH)
    only_json, coding = header_length is None, body_coding(http.headers)
    bound = _JSON if only_json and coding is None else _BYTES
    body = await read_body(http, bound, state.settings, stay)
    stay.take_place()
    series = state.engine.series(stay, timeout_s=timeout_s)
    if coding is not None:
        body = await _inflated(body, coding, state.settings, stay, series, only_json=only_json)
    return ReceivedInference(body, header_length, stay, series)


async def _inflated(
    body: bytearray,
    coding: Coding,
    settings: Settings,
    stay: Stay,
    series: Series,
    *,
    only_json: bool,
) -> bytearray:
    decoded = _JSON.field if only_json else "max_decoded_bytes"
    allowed, setting = getattr(settings, decoded), settings.name_of(decoded)
    stay.hold(most_inflated(len(body), allowed))
    whole = await series.code(lambda: inflate(body, coding, allowed=allowed, setting=setting))
    stay.keep(len(whole))
    return whole
