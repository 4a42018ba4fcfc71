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
# Figures per row that the diagnostics hold at a time, float64: all of them, and their scratch.
_FIGURES = 40
# A number in JSON: sign, up to 17 digits, point, exponent and comma; float32 needs 9 digits.
_JSON_BYTES = {4: 16, 8: 26}
_FIXED_BYTES = 4 * 2**20


@dataclass(frozen=True, slots=True)
class Estimate:
    """Upper bounds: floating-point operations, bytes held at the peak, bytes of the answer."""

    flops: int
    peak_bytes: int
    answer_bytes: int

    def __add__(self, other: "Estimate") -> "Estimate":
        """Two analyses one after the other: answers are kept, scratch is not."""
        return Estimate(
            self.flops + other.flops,
            max(self.peak_bytes, other.peak_bytes) + min(self.answer_bytes, other.answer_bytes),
            self.answer_bytes + other.answer_bytes,
        )


def estimate(plan: Plan, *, threads: int, json: bool) -> Estimate:
    """Upper bounds for one analysis on `threads` threads, answered in JSON or in binary."""
    answer = _answer_bytes(plan, json=json)
    peak = _operand_bytes(plan) + _held_bytes(plan) + threads * _scratch_bytes(plan) + 2 * answer
    return Estimate(_flops(plan), peak + _FIXED_BYTES, answer)


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
    """Inputs as drawn or decoded, cast to the answer's dtype and to the compute dtype."""
    shape = plan.shape
    keys = shape.batch * shape.kv_heads * shape.key_length
    elements = shape.rows * (shape.d_k or 0) + keys * ((shape.d_k or 0) + (shape.d_v or 0))
    if not plan.from_products:
        elements += shape.logits
    copies = 4 + plan.answer_dtype.itemsize + plan.compute_dtype.itemsize
    return elements * copies


def _held_bytes(plan: Plan) -> int:
    """Output, statistics, figures and whatever matrices are asked for."""
    shape, wide = plan.shape, plan.compute_dtype.itemsize
    held = shape.rows * 8 * (2 * _STATISTICS + _FIGURES)
    if plan.wanted.output:
        held += shape.rows * (shape.d_v or 0) * (wide + plan.answer_dtype.itemsize)
    if plan.wanted.weights:
        held += shape.logits * plan.answer_dtype.itemsize
    held += shape.logits * wide * (plan.wanted.logits + plan.wanted.scores)
    if plan.second.key_share:
        held += shape.batch * shape.heads * shape.key_length * 32
    mask = plan.request.mask
    for given in (mask.allowed, mask.bias):
        held += 0 if given is None else math.prod(given.shape) * 3 * wide
    return held


def _scratch_bytes(plan: Plan) -> int:
    """One thread's buffers, masks and the float64 blocks of the exact way."""
    shape = plan.shape
    whole_rows = plan.wanted.matrices or plan.second.anything
    key_block = shape.key_length if whole_rows else min(KEY_BLOCK, shape.key_length)
    largest = unit_logits(shape, key_block=key_block)
    heads = max(1, largest // key_block // max(1, shape.query_length))
    item = heads * shape.key_length * ((shape.d_k or 0) + (shape.d_v or 0))
    return (
        largest * (3 * plan.compute_dtype.itemsize + 10 * 8)
        + item * 2 * plan.compute_dtype.itemsize
    )


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
    return numbers * per_number + per_head + 16_384
