"""What is so quickly parsed or written that handing it to a thread would take longer.

Measured on 2 cores: a hand-over and back takes 0.2 ms and, where others compute, a turn of the
interpreter lock each way; what is small here takes half a millisecond, or less.
"""

from service.attention.native import library
from service.encodings import JSON
from service.estimate import as_it_lies
from service.job import Job

# 16 KiB of JSON hold some 1,500 numbers.
_JSON_BYTES = 2**14
# The compiled library reads sixteen times as many in the same time, but only numbers: the worst
# that is let through, numbers where none may be or in lists of unequal length, are read twice and
# take 16 ms, where as many empty lists would take 30.
_NUMBERS_BYTES, _OTHER_CHARACTERS = 2**18, 2**13
# A binary body is read but for its tensors: 0.12 ms at any size. The worst that is let through, all
# booleans or all lengths, takes 1.5 ms.
_HEADER_BYTES = 2**12
_BINARY_BYTES = 2**23
# A quarter of a megabyte of JSON is written in 0.5 ms; of a binary answer this is what is not sent
# from where it lies.
_ANSWER_BYTES = 2**18


def small_body(body: bytearray, encoding: str, request: str | None) -> bool:
    """Whether a body as it came is parsed at once, with the rest of the request beside it."""
    if encoding == JSON:
        return len(body) <= _JSON_BYTES or _quickly_read_numbers(body)
    text = int.from_bytes(body[:8], "little") + len(request or "")
    return small_inference(body, 8 + text)


def _quickly_read_numbers(body: bytearray) -> bool:
    """Digits, signs and separators, with few brackets and letters between them."""
    native = library.available()
    if len(body) > _NUMBERS_BYTES or native is None:
        return False
    _, others = native.characters(body)
    return others <= _OTHER_CHARACTERS


def small_inference(body: bytearray, header_length: int | None) -> bool:
    """The same of a document of so many bytes (None: all of them) and tensors behind it."""
    if header_length is None:
        return len(body) <= _JSON_BYTES
    return len(body) <= _BINARY_BYTES and header_length <= _HEADER_BYTES


def small_answer(job: Job) -> bool:
    """Whether an answer is written at once."""
    written = job.estimate.answer_bytes
    if job.accept != JSON:
        written -= sum(as_it_lies(plan) for _, plan in job.plans)
    return written <= _ANSWER_BYTES
