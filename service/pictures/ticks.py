"""The ticks of a matrix' axis: tokens where there is room for them, else positions."""

from collections.abc import Sequence
from dataclasses import dataclass

from service.pictures.lettering import pixels, printable, wide

SIZE = 7.0
"""Points."""
MARK = 5
"""Pixels from the axis to the text."""

_MOST_TOKENS = 48
_TOKEN_LENGTH = 14
_LINE = 1.2
_APART = 2.2
"""Texts of positions, from one to the next, in their own size."""


@dataclass(frozen=True, slots=True)
class Ticks:
    """Texts at places that are shares of the axis' length."""

    unit: str
    places: tuple[float, ...]
    texts: tuple[str, ...]


def token_ticks(tokens: Sequence[str]) -> Ticks:
    """One tick a token, in the middle of its position."""
    places = tuple((i + 0.5) / len(tokens) for i in range(len(tokens)))
    return Ticks("token", places, tuple(printable(token, _TOKEN_LENGTH) for token in tokens))


def position_ticks(positions: int, share: float) -> Ticks:
    """Round positions from 0 on; each text takes that share of the axis' length."""
    step = _round_up(max(1.0, positions * share * _APART))
    shown = range(0, positions, step)
    places = tuple((i + 0.5) / positions for i in shown)
    return Ticks("position", places, tuple(str(i) for i in shown))


def fit(tokens: Sequence[str] | None, positions: int, length: float) -> bool:
    """Whether there is a token for each position, and room for all on so many pixels."""
    if tokens is None or len(tokens) != positions or positions > _MOST_TOKENS:
        return False
    return positions * line() <= length


def widest_token(tokens: Sequence[str]) -> float:
    """Pixels of the widest text of token ticks."""
    return max(wide(text, SIZE) for text in token_ticks(tokens).texts)


def widest_position(positions: int) -> float:
    """Pixels of the widest text of position ticks."""
    return wide("0" * len(str(positions - 1)), SIZE)


def line() -> float:
    """Pixels from one line of ticks to the next."""
    return pixels(SIZE) * _LINE


def _round_up(step: float) -> int:
    """The next of 1, 2, 5, 10, 20, 50 and so on."""
    power = 1
    while 5 * power < step:
        power *= 10
    return next(factor * power for factor in (1, 2, 5) if factor * power >= step)
