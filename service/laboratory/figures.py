"""The figures that only sweeps have, beside the diagnostics: what they mean, and of which part."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from service.report import Analysis


@dataclass(frozen=True, slots=True)
class SweepFigure:
    """One figure of a repeat; `include` is what brings it, None what every sweep has."""

    name: str
    include: str | None
    meaning: str
    formula: str
    unit: str
    range: str
    source: str
    compute: Callable[[Analysis], float]


def _participation(found: Analysis) -> float:
    return float((1 / found.rows["participation_ratio"]).nanmean())


def _saturated(found: Analysis) -> float:
    share = None if found.verdict is None else found.verdict.shares["saturated"]
    return math.nan if share is None else share


def _gradient(name: str) -> Callable[[Analysis], float]:
    def rms(found: Analysis) -> float:
        return math.nan if found.gradients is None else float(found.gradients.inputs[name])

    return rms


def _vanished(found: Analysis) -> float:
    vanished = None if found.gradients is None else found.gradients.vanished_rows
    return math.nan if vanished is None else float(vanished)


SWEPT = {
    figure.name: figure
    for figure in (
        SweepFigure(
            "participation",
            None,
            "Mean of Σp² over the rows, the inverse of the participation ratio: 1/n for uniform "
            "rows, 1 for one-hot rows. 1 less it is the Jacobian's trace.",
            "mean of Σ p²",
            "1",
            "[1/n, 1]",
            "definition",
            _participation,
        ),
        SweepFigure(
            "saturated_share",
            None,
            "Share of the rows whose largest weight is at least 0.9.",
            "rows with max_weight ≥ 0.9 / rows",
            "1",
            "[0, 1]",
            "convention of this service",
            _saturated,
        ),
        *(
            SweepFigure(
                f"gradient_{name}_rms",
                "gradients",
                f"RMS of the gradient on the {name}. It carries the scale and the size of the "
                "other tensors: a few unsaturated rows keep it large while most get nothing.",
                f"sqrt(mean (dL/d{name})²), L = ⟨g, output⟩, g normal",
                "1",
                "[0, inf)",
                "definition",
                _gradient(name),
            )
            for name in ("query", "key", "value")
        ),
        SweepFigure(
            "gradient_vanished_rows",
            "gradients",
            "Share of the rows whose query gets less than a tenth of the gradient that equal "
            "weights on all keys would give it.",
            "rows with ‖dL/dq‖ < 0.1 ‖dL/dq at p = 1/n‖ / rows",
            "1",
            "[0, 1]",
            "convention of this service",
            _vanished,
        ),
    )
}
"""In the order of the answers."""
