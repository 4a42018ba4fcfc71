"""What a normaliser is: how a row of logits becomes a row of weights."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Normalizer:
    """How the catalogue presents a normaliser."""

    name: str
    meaning: str
    formula: str
    source: str
