"""An answer between analysis and bytes: a document, and the tensors that go beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Part:
    """The answer of one group: `document` holds everything small, in the contract's order.

    `tensors` are output, weights, logits, scores and key_share in their final shapes; `rows` the
    row diagnostics (batch, head, query).
    """

    name: str | None
    document: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    rows: Mapping[str, Tensor]

    @property
    def headed(self) -> dict[str, Any]:
        """The document, with the name of its group first."""
        return ({} if self.name is None else {"name": self.name}) | dict(self.document)


@dataclass(frozen=True, slots=True)
class Answer:
    """All parts, and what is said once for all of them."""

    parts: Sequence[Part]
    common: Mapping[str, Any] = field(default_factory=dict)

    @property
    def grouped(self) -> bool:
        """Whether the parts are groups of one file."""
        return self.parts[0].name is not None

    def whole(self, documents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The documents of the parts, however written, with what is said for all of them."""
        top = {"groups": documents} if self.grouped else documents[0]
        return {**top, **self.common}
