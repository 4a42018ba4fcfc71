"""An answer's bytes in the pieces they were made in: joining them would copy what is large."""

from collections.abc import Sequence
from dataclasses import dataclass

Piece = bytes | memoryview


@dataclass(frozen=True, slots=True)
class Content:
    """The bytes of an answer, in order; every piece counts single bytes."""

    pieces: Sequence[Piece]

    def __len__(self) -> int:
        return sum(map(len, self.pieces))

    def __bytes__(self) -> bytes:
        return b"".join(self.pieces)
