"""What an analysis would cost, from its shapes alone: compared with the limits before any work."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from service.attention.blocks import unit_logits
from service.attention.native.revisiting import parts
from service.attention.normalizing import Direct
from service.attention.statistics import RowStatistics
from service.attention.streaming import key_block
from service.diagnostics import DIAGNOSTICS
from service.limits import Need
from service.plan import Plan

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
_MOST_FIGURES = len(DIAGNOSTICS) + 8
_ADVICE = (
    "Ask for a binary answer, leave out weights, logits, scores or output, or split the request."
)


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

    @property
    def needs(self) -> list[Need]:
        """What the limits are compared with."""
        return [
            Need("max_flops", self.flops, "the analysis, in floating-point operations"),
            Need("max_peak_bytes", self.peak_bytes, "the analysis, in bytes of memory", _ADVICE),
            Need("max_answer_bytes", self.answer_bytes, "the answer, in bytes", _ADVICE),
        ]

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


def needs(plans: Iterable[Plan], total: Estimate) -> list[Need]:
    """Everything that is compared with a limit, in the order it is looked at."""
    return [*(need for plan in plans for need in element_needs(plan)), *total.needs]


def element_needs(plan: Plan) -> list[Need]:
    """Every tensor of the request, in elements."""
    given, shape = plan.given_shape, plan.shape
    tensors = {
        "query": given.rows * (given.d_q or 0),
        "key": given.keys * (given.d_k or 0),
        "value": given.keys * (given.d_v or 0),
        **{parameter.name: parameter.elements for parameter in plan.parameters},
        "output": shape.output_elements,
        "rows of the diagnostics": shape.rows,
    }
    if plan.wanted.matrices or not plan.scored:
        tensors["weights"] = shape.logits
    return [Need("max_elements", n, f"{name}, in elements") for name, n in tensors.items()]


def _flops(plan: Plan) -> int:
    shape = plan.shape
    scores = shape.logits
    if plan.scored:
        scores = plan.mechanism.flops(plan.request.mechanism, shape)
    weighing = 2 * shape.logits * (shape.d_v or 0) if plan.wanted.output else 0
    row_pass = plan.normalizer.description.flops_a_logit * shape.logits
    return scores + weighing + row_pass + _flops_again(plan, scores)


def _flops_again(plan: Plan, scores: int) -> int:
    """What is included beyond the pass: scores once more, and what is made of them."""
    shape, total = plan.shape, 0
    weighing = 2 * shape.logits * (shape.d_v or 0)
    if plan.second.anything or plan.wants_flips:
        total += scores + 40 * shape.logits
    if plan.second.jacobian_spectral:
        total += 300 * shape.logits
    if plan.wants_flips:
        total += 3 * shape.logits * (shape.d_k or 0)
    if "gradients" in plan.include:
        total += 8 * scores + 3 * weighing + 100 * shape.logits
    if "perturbation" in plan.include:
        total += 3 * scores + 2 * weighing + 100 * shape.logits
    return total


def _operand_bytes(plan: Plan) -> int:
    """Inputs as drawn or decoded, cast to the answer's dtype and the compute dtype, and aligned;
    the mechanism's weights, and what they project the inputs to.
    """  # noqa: D205
    given = plan.given_shape
    elements = given.rows * (given.d_q or 0) + given.keys * ((given.d_k or 0) + (given.d_v or 0))
    if not plan.scored:
        elements += given.logits
    compute = plan.compute_dtype.itemsize
    copies = 4 + plan.answer_dtype.itemsize + 2 * compute
    weights = sum(parameter.elements for parameter in plan.parameters) * (8 + 3 * compute)
    projected = 0
    if plan.scored:
        projected = plan.mechanism.projected_elements(plan.request.mechanism, plan.shape)
    return elements * copies + weights + projected * 2 * compute + _harm_bytes(plan, projected)


def _harm_bytes(plan: Plan, projected: int) -> int:
    """Copies that gradients are taken on and the gradients; the perturbed operands."""
    given, shape, compute = plan.given_shape, plan.shape, plan.compute_dtype.itemsize
    inputs = given.rows * (given.d_q or 0) + given.keys * ((given.d_k or 0) + (given.d_v or 0))
    heads = shape.rows * (shape.d_k or 0) + shape.keys * ((shape.d_k or 0) + (shape.d_v or 0))
    outputs = shape.output_elements + shape.rows * (shape.d_v or 0)
    elements = 0
    if "gradients" in plan.include:
        weights = sum(parameter.elements for parameter in plan.parameters)
        elements += 4 * (inputs + weights) + 8 * heads + 4 * projected + 5 * outputs
    if "perturbation" in plan.include:
        elements += 5 * inputs + 2 * heads + 2 * projected
    return elements * compute + 8 * (inputs if elements else 0)


def _kept_bytes(plan: Plan) -> int:
    """Output, figures, masks and whatever matrices are asked for."""
    shape, wide = plan.shape, plan.compute_dtype.itemsize
    kept = shape.rows * 8 * _KEPT_FIGURES
    if plan.wanted.output:
        heads_output = shape.rows * (shape.d_v or 0)
        kept += (heads_output + shape.output_elements) * (wide + plan.answer_dtype.itemsize)
    if plan.wanted.weights:
        kept += shape.logits * plan.answer_dtype.itemsize
    kept += shape.logits * wide * (plan.wanted.logits + plan.wanted.scores)
    if plan.second.key_share:
        # What is answered, and the sums of both figures by parts of the queries.
        kept += shape.batch * shape.heads * shape.key_length * 16 * (1 + parts(shape))
    mask = plan.request.mask
    for given in (mask.allowed, mask.bias):
        kept += 0 if given is None else math.prod(given.shape) * 3 * wide
    return kept


def _scratch_bytes(plan: Plan) -> int:
    """One thread's buffers, masks and the float64 blocks of the exact way."""
    shape, wide = plan.shape, plan.compute_dtype.itemsize
    keys = shape.key_length
    if not plan.whole_rows:
        keys = key_block(shape, plan.wanted, plan.normalizer)
    largest = unit_logits(shape, key_block=keys)
    # Thresholds and sums of weights that are made directly are in float64.
    direct = 12 * 8 if isinstance(plan.normalizer, Direct) else 0
    tile = figures = 0
    if plan.scored:
        tile = plan.mechanism.tile_elements(plan.request.mechanism, shape)
        figures = 4 * wide if tile else 0
    # Gradients, flips and perturbations hold some twenty more of a block's size, most in float64.
    harms = 20 * 8 if plan.whole_rows else 0
    return largest * (3 * wide + 10 * 8 + direct + figures + harms) + tile * wide


def _answer_bytes(plan: Plan, *, json: bool) -> int:
    shape, wide = plan.shape, plan.compute_dtype.itemsize
    per_number = _JSON_BYTES[wide] if json else wide
    numbers = _large_elements(plan)
    if "row_diagnostics" in plan.include:
        numbers += shape.rows * _MOST_FIGURES
    if plan.second.key_share:
        numbers += shape.batch * shape.heads * shape.key_length
    per_head = shape.batch * shape.heads * _MOST_FIGURES * 4 * _JSON_BYTES[wide]
    matrices = plan.wanted.output + plan.wanted.weights + plan.wanted.logits + plan.wanted.scores
    brackets = 3 * shape.rows * matrices if json else 0
    return numbers * per_number + brackets + per_head + _label_bytes(plan) + 16_384


def _large_elements(plan: Plan) -> int:
    shape, matrices = plan.shape, plan.wanted.weights + plan.wanted.logits + plan.wanted.scores
    return (shape.output_elements if plan.wanted.output else 0) + shape.logits * matrices


def as_it_lies(plan: Plan) -> int:
    """Bytes of a binary answer that are sent from where they were computed: output and matrices."""
    return _large_elements(plan) * plan.compute_dtype.itemsize


def _label_bytes(plan: Plan) -> int:
    labels = plan.request.labels
    named = [] if labels is None else [*(labels.query or ()), *(labels.key or ())]
    return sum(map(text_bytes, named))
