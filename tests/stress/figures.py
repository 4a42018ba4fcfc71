"""What a stress run measures."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the scorecard: what was claimed, what was measured, and whether it holds."""

    claim: str
    bound: str
    measured: str
    holds: bool
