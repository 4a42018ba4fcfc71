"""The structs of job.h, field by field."""

from ctypes import Structure, addressof, c_char, c_double, c_int64, c_void_p
from typing import ClassVar

import torch
from torch import Tensor

KINDS = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}


class Factor(Structure):
    """One number for all rows, or one for each."""

    _fields_: ClassVar = [
        ("one", c_double),
        ("each", c_void_p),
        ("batch", c_int64),
        ("head", c_int64),
        ("query", c_int64),
    ]


class Dense(Structure):
    """A tensor over (batch, head, query, key) by strides."""

    _fields_: ClassVar = [
        ("data", c_void_p),
        ("batch", c_int64),
        ("head", c_int64),
        ("query", c_int64),
        ("key", c_int64),
        ("length", c_int64),
    ]


class Operand(Structure):
    """The heads of each batch item."""

    _fields_: ClassVar = [("items", c_void_p), ("head", c_int64), ("row", c_int64)]


class Matrix(Structure):
    """A tensor written row by row."""

    _fields_: ClassVar = [("data", c_void_p), ("kind", c_int64)]


class JsonArray(Structure):
    """Where an array of numbers stands in a text, its extents, and where its numbers begin."""

    _fields_: ClassVar = [
        *((name, c_int64) for name in ("start", "stop", "axes")),
        ("shape", c_int64 * 4),
        *((name, c_int64) for name in ("first", "count")),
    ]


FIGURES = (
    *("visible_keys", "argmax", "lse", "entropy", "normalized_entropy", "effective_keys"),
    *("participation_ratio", "max_weight", "logit_gap", "logit_mean", "logit_variance"),
    *("logit_max", "logit_min", "logit_max_abs", "saturation_index", "score_mean"),
    *("score_variance", "score_max_abs", "jacobian_trace", "jacobian_frobenius"),
    *("jacobian_spectral_lower", "jacobian_spectral_upper", "logit_variance_under_p"),
)
"""The figures of rows in the order they are computed in."""


class Summary(Structure):
    """What is to be summed of the figures of rows."""

    _fields_: ClassVar = [
        *((name, c_int64) for name in ("heads", "queries")),
        *((name, c_double) for name in ("scale", "saturated", "sharp", "diffuse")),
        *((name, c_void_p) for name in ("least", "columns", "total", "lowest", "highest")),
        *((name, c_void_p) for name in ("rows", "regimes", "counts", "figures")),
    ]


class Revisit(Structure):
    """What a second look at the rows collects; `holds` keeps alive what it points to."""

    _fields_: ClassVar = [
        ("job", c_void_p),
        ("parts", c_int64),
        *((name, c_void_p) for name in ("maximum", "tail", "skipped")),
        ("gap", c_double),
        *((name, c_void_p) for name in ("share", "seen_by", "small")),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.holds: list[object] = []

    def about(self, job: "Job") -> None:
        """Look again at the rows of a job."""
        self.job = addressof(job)
        self.holds.append(job)

    def point(self, **tensors: Tensor | None) -> None:
        """Have contiguous tensors read or written."""
        for name, tensor in tensors.items():
            if tensor is not None:
                setattr(self, name, tensor.data_ptr())
                self.holds.append(tensor)


class Cursor(Structure):
    """Where a thread is in the second look; at its beginning, to begin with."""

    _fields_: ClassVar = [(name, c_int64) for name in ("head", "part", "block", "end")]


_EXTENTS = ("batch", "heads", "kv_heads", "queries", "keys", "d_k", "d_v")
_CHOICES = ("query_block", "key_block", "kind", "statistics", "moments")


class Job(Structure):
    """What one pass is asked for; `holds` keeps alive what it points to."""

    _fields_: ClassVar = [
        *((name, c_int64) for name in (*_EXTENTS, *_CHOICES)),
        *((name, Operand) for name in ("query", "key", "value")),
        *((name, Factor) for name in ("scale", "softcap")),
        *((name, c_void_p) for name in ("ends", "lower", "upper")),
        *((name, Dense) for name in ("allowed", "bias")),
        ("null_weight", c_double),
        *((name, Matrix) for name in ("output", "weights", "logits", "scores")),
        *((name, c_void_p) for name in ("columns", "inexact")),
        *((name, c_int64) for name in ("next", "stopped")),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.holds: list[object] = []

    def operand(self, name: str, items: tuple[Tensor, ...]) -> None:
        """Point to the batch items (heads, rows, d), which all lie alike."""
        pointers = (c_void_p * len(items))(*(item.data_ptr() for item in items))
        head, row, _ = items[0].stride()
        setattr(self, name, Operand(addressof(pointers), head, row))
        self.holds += [pointers, items]

    def numbers(self, name: str, values: tuple[int, ...] | None) -> None:
        """Point to one integer for each batch item."""
        if values is not None:
            array = (c_int64 * len(values))(*values)
            setattr(self, name, addressof(array))
            self.holds.append(array)

    def factor(self, name: str, value: "float | Tensor | None", *, absent: float) -> None:
        """A number, or a tensor (batch, heads, N)."""
        if isinstance(value, Tensor):
            setattr(self, name, Factor(absent, value.data_ptr(), *value.stride()))
            self.holds.append(value)
        else:
            setattr(self, name, Factor(absent if value is None else value))

    def dense(self, name: str, tensor: Tensor, length: int) -> None:
        """Lay a tensor of rank 4 over the logits; extents of 1 stand for all."""
        strides = [
            0 if extent == 1 else stride
            for extent, stride in zip(tensor.shape, tensor.stride(), strict=True)
        ]
        setattr(self, name, Dense(tensor.data_ptr(), *strides, length))
        self.holds.append(tensor)

    def collect(self, columns: Tensor) -> None:
        """Have the statistics (statistic, batch, heads, N) written."""
        self.columns = columns.data_ptr()
        self.holds.append(columns)

    def marks(self, units: int) -> bytearray:
        """One for each unit, 1 for those that are given back."""
        inexact = bytearray(units)
        self.inexact = addressof(c_char.from_buffer(inexact))
        self.holds.append(inexact)
        return inexact

    def matrix(self, name: str, tensor: Tensor | None) -> None:
        """Have a contiguous tensor written."""
        if tensor is not None:
            setattr(self, name, Matrix(tensor.data_ptr(), KINDS[tensor.dtype]))
            self.holds.append(tensor)
