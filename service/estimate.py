"""What an analysis would cost, from its shapes alone: compared with the limits before any work."""

import math
from dataclasses import dataclass

from service.attention.blocks import KEY_BLOCK, unit_logits
from service.attention.statistics import RowStatistics
from service.limits import within
from service.mechanisms import MECHANISMS
from service.plan import Plan
from service.settings import Settings

_STATISTICS = len(RowStatistics.__slots__)
# Measured per row: statistics and diagnostics hold 117 float64 numbers at a time, and keep 24.
_FIGURES = 64
_KEPT_FIGURES = 32
# A number in JSON: sign, up to 17 digits, point, exponent and comma; float32 needs 9 digits.
_JSON_BYTES = {4: 16, 8: 26}
# A character at most, in JSON inside the metadata of a file: a control character as \u001f.
_CHARACTER_BYTES = 7
# A group's name in a file: before each of its tensors, and once in the metadata.
_MOST_ENTRIES = 40
_FIXED_BYTES = 4 * 2**20


@dataclass(frozen=True, slots=True)
class Estimate:
    """Upper bounds: floating-point operations, and bytes.

    `working_bytes` while it is computed, `kept_bytes` of these until the answer is written,
    `answer_bytes` of the answer.
    """

    flops: int
    working_bytes: int
    kept_bytes: int
    answer_bytes: int

    @property
    def peak_bytes(self) -> int:
        """Bytes held at the peak; the writer holds an answer in pieces and in a growing buffer."""
        return self.working_bytes + 3 * self.answer_bytes

    def __add__(self, other: "Estimate") -> "Estimate":
        """Two analyses one after the other: what the first keeps is there during the second."""
        return Estimate(
            self.flops + other.flops,
            max(self.working_bytes, self.kept_bytes + other.working_bytes),
            self.kept_bytes + other.kept_bytes,
            self.answer_bytes + other.answer_bytes,
        )


def estimate(plan: Plan, *, threads: int, json: bool, name: str | None = None) -> Estimate:
    """Upper bounds for one analysis on `threads` threads, answered in JSON or in binary.

    `name` is that of its group in a file; the ranking repeats it for each head.
    """
    kept = _kept_bytes(plan)
    transient = plan.shape.rows * 8 * (2 * _STATISTICS + _FIGURES)
    working = _operand_bytes(plan) + kept + transient + threads * _scratch_bytes(plan)
    repeated = plan.shape.heads + _MOST_ENTRIES
    answer = _answer_bytes(plan, json=json) + text_bytes(name or "") * repeated
    return Estimate(_flops(plan), working + _FIXED_BYTES, kept, answer)


def text_bytes(text: str) -> int:
    """The most that a piece of the caller's text takes in an answer."""
    return 4 + _CHARACTER_BYTES * len(text)


def check(total: Estimate, settings: Settings) -> None:
    """Compare with the limits.

    Raises:
        LimitExceeded: the first limit that is exceeded.
    """
    advice = "Leave out weights, logits and scores, or split the request."
    within(settings, "max_flops", total.flops, "the analysis, in floating-point operations")
    within(settings, "max_peak_bytes", total.peak_bytes, "the analysis, in bytes of memory", advice)
    within(settings, "max_answer_bytes", total.answer_bytes, "the answer, in bytes", advice)


def check_elements(plan: Plan, settings: Settings) -> None:
    """Compare every tensor of the request with the limit on elements.

    Raises:
        LimitExceeded: the first tensor that is too large.
    """
    shape = plan.shape
    keys = shape.batch * shape.kv_heads * shape.key_length
    tensors = {
        "query": shape.rows * (shape.d_k or 0),
        "key": keys * (shape.d_k or 0),
        "value": keys * (shape.d_v or 0),
        "output": shape.rows * (shape.d_v or 0),
        "rows of the diagnostics": shape.rows,
    }
    if plan.wanted.matrices or not plan.from_products:
        tensors["weights"] = shape.logits
    for name, elements in tensors.items():
        within(settings, "max_elements", elements, f"{name}, in elements")


def _flops(plan: Plan) -> int:
    shape = plan.shape
    mechanism = MECHANISMS[plan.request.mechanism.kind]
    scores = mechanism.flops(shape) if plan.from_products else shape.logits
    weighing = 2 * shape.logits * (shape.d_v or 0) if plan.wanted.output else 0
    row_pass = 20 * shape.logits
    again = scores + 40 * shape.logits if plan.second.anything else 0
    bisection = 300 * shape.logits if plan.second.jacobian_spectral else 0
    return scores + weighing + row_pass + again + bisection


def _operand_bytes(plan: Plan) -> int:
    """Inputs as drawn or decoded, cast to the answer's dtype and the compute dtype, and aligned."""
    shape = plan.shape
    keys = shape.batch * shape.kv_heads * shape.key_length
    elements = shape.rows * (shape.d_k or 0) + keys * ((shape.d_k or 0) + (shape.d_v or 0))
    if not plan.from_products:
        elements += shape.logits
    copies = 4 + plan.answer_dtype.itemsize + 2 * plan.compute_dtype.itemsize
    return elements * copies


def _kept_bytes(plan: Plan) -> int:
    """Output, figures, masks and whatever matrices are asked for."""
    shape, wide = plan.shape, plan.compute_dtype.itemsize
    kept = shape.rows * 8 * _KEPT_FIGURES
    if plan.wanted.output:
        kept += shape.rows * (shape.d_v or 0) * (wide + plan.answer_dtype.itemsize)
    if plan.wanted.weights:
        kept += shape.logits * plan.answer_dtype.itemsize
    kept += shape.logits * wide * (plan.wanted.logits + plan.wanted.scores)
    if plan.second.key_share:
        kept += shape.batch * shape.heads * shape.key_length * 32
    mask = plan.request.mask
    for given in (mask.allowed, mask.bias):
        kept += 0 if given is None else math.prod(given.shape) * 3 * wide
    return kept


def _scratch_bytes(plan: Plan) -> int:
    """One thread's buffers, masks and the float64 blocks of the exact way."""
    shape = plan.shape
    whole_rows = plan.wanted.matrices or plan.second.anything
    key_block = shape.key_length if whole_rows else min(KEY_BLOCK, shape.key_length)
    largest = unit_logits(shape, key_block=key_block)
    return largest * (3 * plan.compute_dtype.itemsize + 10 * 8)


def _answer_bytes(plan: Plan, *, json: bool) -> int:
    shape, wide = plan.shape, plan.compute_dtype.itemsize
    per_number = _JSON_BYTES[wide] if json else wide
    numbers = 0
    if plan.wanted.output:
        numbers += shape.rows * (shape.d_v or 0)
    numbers += shape.logits * (plan.wanted.weights + plan.wanted.logits + plan.wanted.scores)
    if "row_diagnostics" in plan.include:
        numbers += shape.rows * 26
    if plan.second.key_share:
        numbers += shape.batch * shape.heads * shape.key_length
    per_head = shape.batch * shape.heads * 26 * 4 * _JSON_BYTES[wide]
    matrices = plan.wanted.output + plan.wanted.weights + plan.wanted.logits + plan.wanted.scores
    brackets = 3 * shape.rows * matrices if json else 0
    return numbers * per_number + brackets + per_head + _label_bytes(plan) + 16_384


def _label_bytes(plan: Plan) -> int:
    labels = plan.request.labels
    named = [] if labels is None else [*(labels.query or ()), *(labels.key or ())]
    return sum(map(text_bytes, named))
