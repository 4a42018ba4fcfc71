"""Loading the compiled pass, and calling it."""

from ctypes import CDLL, addressof, byref, c_char, c_char_p, c_int64, c_void_p, cast, sizeof
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from service.attention.native.sources import LIBRARY, fingerprint
from service.attention.native.structures import Cursor, Job, JsonArray, Revisit, Summary


class Absent(Exception):
    """The library cannot be used here; the message says why."""


class Native:
    """The loaded library; its functions let other Python threads run while they compute."""

    def __init__(self, library: CDLL) -> None:
        self._run = library.attention_pass
        self._run.argtypes, self._run.restype = [c_void_p, c_int64, c_int64], c_int64
        self._revisit = library.attention_revisit
        self._revisit.argtypes, self._revisit.restype = [c_void_p, c_void_p, c_int64], c_int64
        self._use = library.attention_use
        self._use.argtypes, self._use.restype = [c_char_p], c_char_p
        self._arrays = library.attention_arrays
        self._arrays.restype = c_int64
        self._arrays.argtypes = [
            *(c_void_p, c_int64, c_int64, c_void_p, c_int64, c_void_p, c_int64),
        ]
        self._characters = library.attention_characters
        self._characters.argtypes, self._characters.restype = [c_void_p, c_int64, c_void_p], None
        self._summary = library.attention_summary
        self._summary.argtypes, self._summary.restype = [c_void_p], None
        self.instructions = self.use(None)
        """The instruction set in use: the widest that this processor has."""

    def use(self, instructions: str | None) -> str:
        """Compute with another instruction set from now on; the name of the one taken.

        Raises:
            Absent: this processor, or this build, has no such one.
        """
        name = None if instructions is None else instructions.encode()
        taken: bytes | None = self._use(name)
        if taken is None:
            raise Absent(f"no instruction set {instructions} here")
        self.instructions = taken.decode()
        return self.instructions

    def run(self, job: Job, units: int, most: int) -> bool:
        """Compute up to `most` of the job's units; whether some may be left.

        Raises:
            MemoryError: no memory for a thread's buffers.
        """
        left = self._run(byref(job), units, most)
        if left < 0:
            raise MemoryError
        return bool(left)

    def revisit(self, asked: Revisit, at: Cursor, most: int) -> bool:
        """Look again at up to `most` blocks of queries; whether some may be left.

        Raises:
            MemoryError: no memory for a thread's buffers.
        """
        left = self._revisit(byref(asked), byref(at), most)
        if left < 0:
            raise MemoryError
        return bool(left)

    def summarise(self, summary: Summary) -> None:
        """Compute and sum the figures of rows."""
        self._summary(byref(summary))

    def characters(self, text: bytearray) -> tuple[int, int]:
        """Of JSON text: how many values it holds at most, and characters that no number has.

        Brackets are among those; commas and blanks are not.
        """
        found = (c_int64 * 2)()
        if text:
            self._characters(addressof(c_char.from_buffer(text)), len(text), found)
        separators, others = found
        return separators + 1, others

    def arrays(
        self, text: memoryview, numbers: "np.ndarray[Any, Any]", *, least: int, most: int
    ) -> list[JsonArray]:
        """Regular arrays of numbers in JSON text, the numbers one after another in float64."""
        found = (JsonArray * most)()
        place = addressof(c_char.from_buffer(text))
        count = self._arrays(
            place, len(text), least, found, most, numbers.ctypes.data, numbers.size
        )
        return list(found[:count])


def load() -> Native:
    """The library, once for the process.

    Raises:
        Absent: not built, built from other sources, or no BLAS to call.
    """
    found = _once()
    if isinstance(found, Absent):
        raise Absent(*found.args)
    return found


@cache
def _once() -> Native | Absent:
    """Also that it is absent is found once: it is asked for with each body of JSON."""
    try:
        return _load()
    except Absent as reason:
        return reason


def _load() -> Native:
    if not LIBRARY.is_file():
        raise Absent("it has not been built (`make` builds it where there is a C++ compiler)")
    try:
        library = CDLL(str(LIBRARY))
    except OSError as error:
        raise Absent(f"it does not load: {error}") from error
    library.attention_sources.restype = c_char_p
    other = "it was built from other sources; `make` builds it anew"
    if library.attention_sources().decode() != fingerprint():
        raise Absent(other)
    sizes = [
        library.attention_job_bytes(),
        library.attention_revisit_bytes(),
        library.attention_summary_bytes(),
    ]
    if sizes != [sizeof(Job), sizeof(Revisit), sizeof(Summary)]:
        raise Absent(other)
    singles, doubles = _products()
    library.attention_products.argtypes = [c_void_p, c_void_p]
    library.attention_products(singles, doubles)
    return Native(library)


def available() -> Native | None:
    """The library, where it can be used."""
    try:
        return load()
    except Absent:
        return None


def chosen(wanted: str | None) -> tuple[Native | None, str | None]:
    """The library or None for the eager pass, as it is asked for, and why it is not there.

    Raises:
        Absent: `native` is asked for, and cannot be had.
    """
    if wanted == "eager":
        return None, None
    try:
        return load(), None
    except Absent as error:
        if wanted == "native":
            raise
        return None, str(error)


def _products() -> tuple[c_void_p, c_void_p]:
    """Addresses of torch's own sgemm and dgemm: one BLAS, with one idea of threads."""
    folder = Path(torch.__file__).parent / "lib"
    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib"):
        if (folder / name).is_file():
            blas = CDLL(str(folder / name))
            if hasattr(blas, "sgemm_") and hasattr(blas, "dgemm_"):
                return cast(blas.sgemm_, c_void_p), cast(blas.dgemm_, c_void_p)
    raise Absent("this build of torch shows no sgemm and dgemm")
