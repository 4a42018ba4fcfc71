"""From an analysis to the answer's document and tensors, in the contract's names and order."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from schemas.parameters import SeededWeights
from service.diagnostics.aggregate import Aggregated, Aggregates
from service.diagnostics.evidence import Evidence
from service.diagnostics.included import INCLUDED
from service.diagnostics.rows import Figures
from service.diagnostics.verdict import RULES_VERSION
from service.harms import Gradients
from service.judgement import Verdict
from service.parameters import given
from service.report import Analysis, Numerics
from service.scales import RowScale, Scale
from service.shape import Model, Shape
from service.theory.panel import Panel, Prediction
from service.wire.answers import Part

_INTEGERS = ("visible_keys", "argmax")
_WITH_QUERY_AXES = ("output", "weights", "logits", "scores")


def part(name: str | None, analysis: Analysis) -> Part:
    """One analysis as it is written, whatever the encoding."""
    document: dict[str, Any] = {
        "mechanism": _mechanism(analysis),
        "shape": _shape(analysis),
        "mask": _mask(analysis),
    }
    labels = analysis.plan.request.labels
    if labels is not None:
        document["labels"] = labels.model_dump(exclude_none=True)
    included = _included(analysis)
    if included:
        document["diagnostics"] = _aggregates(included, _dtype(analysis))
        if "sparsity" in included:
            document["diagnostics"]["sparsity"]["threshold"] = (
                analysis.plan.include.sparsity.threshold
            )
    if analysis.verdict is not None:
        document["verdict"] = _verdict(analysis.verdict)
    document["numerics"] = _numerics(analysis)
    if analysis.theory is not None:
        document["theory"] = _theory(analysis.theory)
    if analysis.gradients is not None:
        document["gradients"] = _gradients(analysis.gradients, _dtype(analysis))
    document["omitted"] = list(analysis.plan.include.omitted)
    return Part(name, document, tensors(analysis), rows(analysis, analysis.rows))


def _included(analysis: Analysis) -> Mapping[str, Aggregated]:
    """All aggregates, or only those of a second pass that are included by name."""
    include = analysis.plan.include
    every = "diagnostics" in include
    if every:
        return analysis.diagnostics
    figures = analysis.diagnostics.items()
    return {n: f for n, f in figures if every or (n in INCLUDED and INCLUDED[n].include in include)}


def _dtype(analysis: Analysis) -> torch.dtype:
    return analysis.plan.compute_dtype


def _mechanism(analysis: Analysis) -> dict[str, Any]:
    """As it was applied; of learned weights only whether and from which seed they were drawn."""
    request = analysis.plan.request.mechanism
    written = {
        "kind": request.kind,
        **request.model_dump(exclude={"kind", "parameters"}),
        "scale": _scale(analysis.scale),
    }
    if "kv_heads" in written:
        written["kv_heads"] = analysis.plan.shape.kv_heads
    source = analysis.plan.mechanism.source(request) if analysis.plan.scored else None
    if source is None:
        return written
    drawn: dict[str, Any] = {"kind": "given"}
    if isinstance(source, SeededWeights):
        drawn = {"kind": "seeded", "seed": source.seed}
    present = given(source)
    extents = {
        p.name: list(p.shape) for p in analysis.plan.parameters if p.drawn or p.name in present
    }
    if "score_vector" in extents:
        drawn["hidden_dim"] = extents["score_vector"][0]
    return {**written, "parameters": {**drawn, "shapes": extents}}


def _scale(scale: Scale | None) -> float | dict[str, Any] | None:
    if not isinstance(scale, RowScale):
        return scale
    low, high = scale.extremes
    base, default = scale.base, scale.default
    return {"kind": "log_length", "base": base, "default": default, "min": low, "max": high}


def _shape(analysis: Analysis) -> dict[str, int | None]:
    extents = _fields(analysis.plan.shape)
    del extents["query_rank"]
    if extents["d_q"] == extents["d_k"]:
        del extents["d_q"]
    model = extents.pop("model")
    return extents if model is None else {**extents, **_fields(model)}


def _fields(record: Shape | Model | Evidence | Numerics) -> dict[str, Any]:
    """By name; `asdict` would copy what they hold, which took a quarter of a small answer."""
    return {name: getattr(record, name) for name in record.__slots__}


def _mask(analysis: Analysis) -> dict[str, Any]:
    return {
        "causal": analysis.mask.causal,
        "resolved_offset": list(analysis.mask.offsets),
        # Numbers of keys, or NaN: nothing that float32 could not hold.
        **_together(analysis.visible, torch.float32),
    }


def _aggregates(figures: Mapping[str, Aggregated], dtype: torch.dtype) -> dict[str, Any]:
    """All of them at once, as arrays: one by one they took longer than a small analysis."""
    if isinstance(figures, Aggregates):
        return _together(figures, dtype)
    exact = np.stack([np.stack(_columns(figure)) for figure in figures.values()], 1)
    counts = [figure.rows.numpy() for figure in figures.values()]
    units = {name: figure.unit for name, figure in figures.items()}
    reasons = {n: figure.reason for n, figure in figures.items() if figure.reason is not None}
    return _together(Aggregates(units, exact, np.stack(counts), reasons), dtype)


def _columns(figure: Aggregated) -> list[Figures]:
    return [column.numpy() for column in (figure.mean, figure.minimum, figure.maximum)]


def _together(figures: Aggregates, dtype: torch.dtype) -> dict[str, Any]:
    """As they are held: no tensor of each is made."""
    exact = _cast(figures.figures, dtype)
    written = {
        name: {"unit": unit, "mean": mean, "min": low, "max": high, "rows": counts}
        for (name, unit), mean, low, high, counts in zip(
            figures.units.items(), *exact, figures.rows, strict=True
        )
    }
    for name, reason in figures.reasons.items():
        written[name]["reason"] = reason
    return written


def _cast(exact: Figures, dtype: torch.dtype) -> "np.ndarray[Any, np.dtype[np.floating[Any]]]":
    """As `in_dtype`; a torch operation takes longer than all of this on so little."""
    if dtype == torch.float64:
        return np.ascontiguousarray(exact)
    with np.errstate(over="ignore"):
        figures = exact.astype(np.float32)
    if (infinite := np.isinf(figures)).any():
        figures[infinite & np.isfinite(exact)] = np.nan
    return figures


def in_dtype(exact: Tensor, dtype: torch.dtype) -> Tensor:
    """Figures in the answer's dtype: one that only this dtype cannot hold is undefined, not ∞."""
    figures = exact.to(dtype)
    return figures.masked_fill(torch.isinf(figures) & torch.isfinite(exact), float("nan"))


def _verdict(verdict: Verdict) -> dict[str, Any]:
    written = {
        "level": verdict.level,
        "heads": verdict.heads,
        "shares": verdict.shares,
        "rows": verdict.rows,
        "evidence": [{**_fields(item), "holds": item.holds} for item in verdict.evidence],
        "advice": verdict.advice,
        "rules": RULES_VERSION,
    }
    return written if verdict.reason is None else {**written, "reason": verdict.reason}


def _numerics(analysis: Analysis) -> dict[str, Any]:
    counts = _fields(analysis.numerics)
    sums = counts.pop("row_sums")
    written = {
        "compute_dtype": counts.pop("compute_dtype"),
        "pass": analysis.pass_name,
        "tf32": torch.backends.cuda.matmul.allow_tf32,
        **counts,
    }
    advice = analysis.numerics.advice
    if advice:
        written["advice"] = advice
    if sums is not None:
        written |= dict(zip(("row_sum_min", "row_sum_max", "row_sums_off"), sums, strict=True))
    return written


def _gradients(found: Gradients, dtype: torch.dtype) -> dict[str, Any]:
    def per_head(figure: Tensor | None, reason: str | None) -> dict[str, Any]:
        written: dict[str, Any] = {"query": None if figure is None else in_dtype(figure, dtype)}
        return written if reason is None else {**written, "reason": reason}

    written = {
        "seed": found.seed,
        **{name: in_dtype(rms, dtype) for name, rms in found.inputs.items()},
        "parameters": found.parameters,
        "closed_form": per_head(found.closed_form, found.closed_form_reason),
        "relative_to_uniform": per_head(found.relative_to_uniform, found.relative_reason),
        "vanished_rows": per_head(found.vanished_rows, found.relative_reason),
    }
    if found.projected:
        written["projected"] = {n: in_dtype(rms, dtype) for n, rms in found.projected.items()}
    return written


def _theory(panel: Panel) -> dict[str, Any]:
    return {
        "assumption": panel.assumption,
        "score_variance": _prediction(panel.score_variance),
        "row_variance": _prediction(panel.row_variance),
        "entropy": _prediction(panel.entropy),
        "participation": _prediction(panel.participation),
        "asymptotes": panel.asymptotes,
    }


def _prediction(prediction: Prediction) -> dict[str, Any]:
    written = {
        "predicted": prediction.predicted,
        "measured": prediction.measured,
        "standard_error": prediction.standard_error,
        "z": prediction.z,
        "source": prediction.source,
    }
    return written if prediction.reason is None else {**written, "reason": prediction.reason}


def tensors(analysis: Analysis) -> dict[str, Tensor]:
    """In their final shapes: output and matrices lose the axes that the query lacks.

    key_share never does, nor do the matrices of a mechanism with heads of its own.
    """
    shape = analysis.plan.shape
    dropping = ("output",) if shape.model is not None else _WITH_QUERY_AXES
    found = {}
    for name, tensor in analysis.tensors.items():
        shaped = _drop_axes(tensor, shape.query_rank) if name in dropping else tensor
        found[name] = shaped if shaped.dtype != torch.float64 else shaped.to(_exact(name, analysis))
    return found


def _exact(name: str, analysis: Analysis) -> torch.dtype:
    """float64 only where the inputs are; key_share is summed in it everywhere."""
    return _dtype(analysis) if name == "key_share" else torch.float64


def _drop_axes(tensor: Tensor, rank: int) -> Tensor:
    if rank == 4:
        return tensor
    return tensor[:, 0] if rank == 3 else tensor[0, 0]


def rows(analysis: Analysis, names: Iterable[str]) -> dict[str, Tensor]:
    """Those row diagnostics (batch, head, query) of these names that there are."""
    if "row_diagnostics" not in analysis.plan.include:
        return {}
    found = ((name, analysis.rows[name]) for name in names if name in analysis.rows)
    return {
        name: figures.long() if name in _INTEGERS else in_dtype(figures, _dtype(analysis))
        for name, figures in found
    }
