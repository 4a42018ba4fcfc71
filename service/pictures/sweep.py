"""The curves of a sweep: which rows belong together, and along what."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from service.errors import Invalid
from service.pictures.palettes import MOST_SERIES
from service.pictures.plots import Values, numbers

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Curve:
    """Rows that differ in one extent only, in its order."""

    label: str
    rows: Sequence[Row]

    def measured(self, name: str, figure: str) -> Values:
        """A measured figure, its mean or standard error; NaN where there is none."""
        return numbers([row["measured"].get(name, {}).get(figure) for row in self.rows])

    def predicted(self, name: str) -> Values:
        """What theory says, where it is valid; NaN elsewhere."""
        found = [row["predicted"].get(name, {}) for row in self.rows]
        return numbers([entry.get("value") if entry.get("valid") else None for entry in found])

    def asymptote(self, name: str) -> Values:
        """What theory says of infinitely many keys; NaN where it says nothing."""
        return numbers([row["asymptote"].get(name, {}).get("value") for row in self.rows])

    def lines(self, name: str) -> tuple[Values, Values, Values]:
        """Measured means, predictions and asymptotes."""
        return self.measured(name, "mean"), self.predicted(name), self.asymptote(name)


@dataclass(frozen=True, slots=True)
class Sweep:
    """All curves, along d_k, or along key_length where there is only one d_k."""

    along: str
    curves: Sequence[Curve]
    fixed: str
    """The extent that is the same everywhere, in words; empty where there is none."""

    @property
    def places(self) -> list[int]:
        """Where on the horizontal axis there are points."""
        return sorted({row[self.along] for curve in self.curves for row in curve.rows})

    @property
    def seeds(self) -> str:
        """How many seeds the points have, in words."""
        counts = {len(row["seeds"]) for curve in self.curves for row in curve.rows}
        least, most = min(counts), max(counts)
        return (
            f"{most} seed{'s' if most > 1 else ''}" if least == most else f"{least} to {most} seeds"
        )

    def has(self, name: str) -> bool:
        """Whether a row says anything of this quantity."""
        parts = ("measured", "predicted", "asymptote")
        rows = (row for curve in self.curves for row in curve.rows)
        return any(name in row[part] for row in rows for part in parts)


def sweep_of(rows: Sequence[Row]) -> Sweep:
    """The rows of an answer as curves: one for each scale and each other extent.

    Raises:
        Invalid: no rows, or more curves than can be told apart.
    """
    if not rows:
        raise Invalid("there is no row to draw", pointer="")
    d_ks, key_lengths = ({row[name] for row in rows} for name in ("d_k", "key_length"))
    along, other, fixed = "d_k", "key_length", len(key_lengths) == 1
    if len(d_ks) == 1 and not fixed:
        along, other, fixed = "key_length", "d_k", True
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((_scale(row["scale"]), row[other]), []).append(row)
    if len(groups) > MOST_SERIES:
        raise Invalid(
            f"this sweep has {len(groups)} curves, of which {MOST_SERIES} can be told apart in a "
            "picture; ask for fewer scales or key lengths",
            pointer="",
        )
    curves = [
        Curve(f"scale {scale}" if fixed else f"scale {scale}, {other} {extent}", _by(along, found))
        for (scale, extent), found in groups.items()
    ]
    return Sweep(along, curves, f"{other} {rows[0][other]}" if fixed else "")


def _by(along: str, rows: Sequence[Row]) -> Sequence[Row]:
    return sorted(rows, key=lambda row: row[along])


def _scale(scale: str | float) -> str:
    return scale if isinstance(scale, str) else f"{scale:.6g}"
