"""What one HTTP call asks for: one analysis, or one for each group of a file."""

from dataclasses import dataclass
from typing import Generic, TypeVar

from schemas.strict import Strict

Request = TypeVar("Request", bound=Strict)


@dataclass(frozen=True, slots=True)
class Call(Generic[Request]):
    """Named requests; a call without groups has one, named None.

    `ignored` are the entries of a file that are no input and were to be ignored.
    """

    requests: tuple[tuple[str | None, Request], ...]
    ignored: tuple[str, ...] = ()

    @property
    def grouped(self) -> bool:
        """Whether the answer has groups."""
        return self.requests[0][0] is not None

    @property
    def options(self) -> Request:
        """The request whose options all groups share."""
        return self.requests[0][1]
