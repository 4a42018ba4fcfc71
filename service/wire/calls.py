"""What one HTTP call asks for: one analysis, or one for each group of a file."""

from dataclasses import dataclass

from schemas.attention import AttentionRequest


@dataclass(frozen=True, slots=True)
class Call:
    """Named requests; a call without groups has one, named None.

    `ignored` are the entries of a file that are no input and were to be ignored.
    """

    requests: tuple[tuple[str | None, AttentionRequest], ...]
    ignored: tuple[str, ...] = ()

    @property
    def grouped(self) -> bool:
        """Whether the answer has groups."""
        return self.requests[0][0] is not None

    @property
    def options(self) -> AttentionRequest:
        """The request whose options all groups share."""
        return self.requests[0][1]
