"""What a mechanism is: projections and a score function for a block of queries."""

from dataclasses import dataclass
from typing import Protocol

from service.attention.logits import Scorer
from service.operands import Operands
from service.shape import Shape


@dataclass(frozen=True, slots=True)
class Description:
    """How the catalogue presents a mechanism."""

    name: str
    meaning: str
    formula: str
    source: str


class Mechanism(Protocol):
    """One member of the room: how it is described, its default scale and its scores."""

    description: Description

    def default_scale(self, shape: Shape) -> float:
        """The factor on the scores when the request gives none."""

    def scorer(self, operands: Operands, shape: Shape) -> Scorer:
        """The score function over these operands."""

    def flops(self, shape: Shape) -> int:
        """Floating-point operations of all scores."""
