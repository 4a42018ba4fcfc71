"""Everything that can go wrong for a caller, told without HTTP.

ServiceError
├── NotHttp              the bytes on the connection are no request that is read here
├── Malformed            the bytes are not what their encoding says
├── Invalid              parseable, but not a valid request
│   ├── ShapeMismatch    extents that do not fit together
│   ├── DtypeMismatch    dtypes that do not fit together
│   ├── NonFinite        NaN or infinity where none is accepted
│   ├── InvalidMask      masks that contradict one another or the shapes
│   ├── UnknownEntry     a tensor name that means nothing here
│   ├── ProtocolViolation  not as the Open Inference Protocol or the model's metadata has it
│   └── UnavailableDevice
├── UnknownModel         a model, or a version of one, that is not served here
├── UnsupportedExtension an extension of a protocol that is not served here
├── LimitExceeded        more than a setting allows
│   └── HeadTooLarge     more headers, or more bytes of them
├── HeadTimeout          the head did not arrive in time
├── BodyTimeout          the body did not arrive in time
├── UnsupportedMedia     an encoding of the body that is not read here
├── NotAcceptable        an encoding of the answer that is not written here
├── Busy                 no place, or no memory beside the others; try again
├── OutOfMemory          the device had too little free memory
├── TooManyConnections   all connections are in use; try again
├── Draining             the service is stopping
└── DeadlineExceeded     computing took longer than allowed
"""

from dataclasses import dataclass


class ServiceError(Exception):
    """An error with a stable name, a sentence for people, and the place it came from."""

    slug = "error"
    title = "Error"

    def __init__(self, detail: str, *, pointer: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.pointer = pointer


class NotHttp(ServiceError):
    """The bytes on the connection are no HTTP/1.1 request that can be read in one way only."""

    slug = "malformed-request"
    title = "The request cannot be read"


class Malformed(ServiceError):
    """The bytes cannot be read as the encoding they claim to be."""

    slug = "malformed-body"
    title = "The body cannot be read"


@dataclass(frozen=True)
class Fault:
    """One of several things wrong with a request: a JSON pointer and a sentence."""

    pointer: str
    detail: str


class Invalid(ServiceError):
    """The request was read, but it is not valid."""

    slug = "invalid-request"
    title = "The request is not valid"

    def __init__(
        self, detail: str, *, pointer: str | None = None, faults: tuple[Fault, ...] = ()
    ) -> None:
        super().__init__(detail, pointer=pointer)
        self.faults = faults or ((Fault(pointer, detail),) if pointer is not None else ())


class ShapeMismatch(Invalid):
    """Extents that do not fit together."""

    slug = "shape-mismatch"
    title = "The shapes do not fit together"


class DtypeMismatch(Invalid):
    """Dtypes that do not fit together, or one that is not accepted."""

    slug = "dtype-mismatch"
    title = "The dtypes do not fit together"


class NonFinite(Invalid):
    """NaN or infinity where none is accepted."""

    slug = "non-finite"
    title = "A tensor holds NaN or infinity"


class InvalidMask(Invalid):
    """Masks that contradict one another or the shapes."""

    slug = "invalid-mask"
    title = "The masks do not fit"


class UnknownEntry(Invalid):
    """A tensor name that means nothing here."""

    slug = "unknown-entry"
    title = "The file has entries that are no inputs"


class ProtocolViolation(Invalid):
    """The request is not as the Open Inference Protocol, or the model's metadata, has it."""

    slug = "protocol-violation"
    title = "The request does not follow the protocol"


class UnavailableDevice(Invalid):
    """A device that this machine lacks, or that lacks the dtype."""

    slug = "unavailable-device"
    title = "The device is not available"


class UnknownModel(ServiceError):
    """A model, or a version of one, that is not served here."""

    slug = "unknown-model"
    title = "There is no such model"


class UnsupportedExtension(ServiceError):
    """An extension of the Open Inference Protocol that is not served here."""

    slug = "unsupported-extension"
    title = "The extension is not supported"


class LimitExceeded(ServiceError):
    """More than a setting allows: names the limit, the need and the setting."""

    slug = "limit-exceeded"
    title = "A limit is exceeded"

    def __init__(
        self, what: str, *, needed: int, allowed: int, setting: str, advice: str = ""
    ) -> None:
        detail = f"{what}: needs {needed:,}, allowed are {allowed:,} (setting {setting})."
        super().__init__(f"{detail} {advice}".strip())
        self.needed, self.allowed, self.setting = needed, allowed, setting


class HeadTooLarge(LimitExceeded):
    """The request's line, headers and trailers are more than a setting allows."""

    slug = "head-too-large"
    title = "The request's head is too large"


class HeadTimeout(ServiceError):
    """The request's line and headers did not arrive in time."""

    slug = "head-timeout"
    title = "The request's head did not arrive in time"


class BodyTimeout(ServiceError):
    """The body did not arrive in time."""

    slug = "body-timeout"
    title = "The body did not arrive in time"


class UnsupportedMedia(ServiceError):
    """An encoding of the body that is not read here."""

    slug = "unsupported-media-type"
    title = "The body's encoding is not supported"


class NotAcceptable(ServiceError):
    """An encoding of the answer that is not written here."""

    slug = "not-acceptable"
    title = "The answer's encoding is not supported"


class Busy(ServiceError):
    """All places are taken, or the memory of all requests together is."""

    slug = "busy"
    title = "The service is busy"

    def __init__(self, detail: str, *, retry_after_s: int = 1) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class OutOfMemory(ServiceError):
    """The device had too little free memory for what was admitted."""

    slug = "out-of-memory"
    title = "The device is out of memory"


class TooManyConnections(ServiceError):
    """All connections are in use; health is still answered."""

    slug = "too-many-connections"
    title = "There are too many connections"


class Draining(ServiceError):
    """The service is not ready to take work."""

    slug = "not-ready"
    title = "The service is not ready"


class DeadlineExceeded(ServiceError):
    """The analysis took longer than allowed."""

    slug = "deadline-exceeded"
    title = "The deadline has passed"
