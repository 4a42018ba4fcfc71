"""What a mechanism is: learned weights, projections, and a score function for a block."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Generic, Protocol, TypeVar

from torch import Tensor

from schemas.mechanisms import MechanismOptions
from schemas.strict import Strict
from service.attention.gradients import Differentiable
from service.attention.logits import Scorer
from service.errors import Invalid, ShapeMismatch
from service.operands import Operands
from service.parameters import Parameter
from service.shape import Shape

MeanOf = Callable[[str], float | None]
"""The mean of a diagnostic over all rows, by name; None where it is undefined."""
Request = TypeVar("Request", bound=MechanismOptions)


@dataclass(frozen=True, slots=True)
class Description:
    """How the catalogue presents a mechanism; `shapes` are those of its inputs."""

    name: str
    meaning: str
    formula: str
    shapes: str
    source: str
    parameters: tuple[str, ...] = ()


class Scores(Scorer, Differentiable, Protocol):
    """A score function that also takes gradients back."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A mechanism over its operands.

    `query` (batch, heads, N, …), `key` and `value` (batch, kv_heads, M, …) as the scorer and the
    weights meet them; `finish` takes the output of the heads to that of the mechanism; `constants`
    are figures known before any score.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    scorer: Scores
    finish: Callable[[Tensor], Tensor] | None = None
    constants: Mapping[str, float] = field(default_factory=dict)


class Mechanism(ABC, Generic[Request]):
    """One member of the room."""

    description: ClassVar[Description]
    undivided: ClassVar[bool] = False
    """Whether the inputs have the model's dimension and no heads of their own."""

    def resolve(self, request: Request, given: Shape) -> Shape:
        """The shape of the analysis, from that of the inputs as they lie.

        Raises:
            ShapeMismatch: inputs that this mechanism cannot score.
            Invalid: options that mean nothing here.
        """
        if self.scores_products(request):
            same_dimension(given)
        elif request.qk_norm != "none":
            raise Invalid(
                "qk_norm normalises query and key before their dot product, which these scores "
                "are not",
                pointer="/mechanism/qk_norm",
            )
        return given

    def scores_products(self, request: Request) -> bool:
        """Whether the scores are dot products of query and key as they are given."""
        return False

    def scores_projected_products(self, request: Request) -> bool:
        """Whether the scores are dot products of query and key as they are prepared."""
        return self.scores_products(request)

    @abstractmethod
    def default_scale(self, request: Request, shape: Shape) -> float:
        """The factor on the scores when the request gives none."""

    def source(self, request: Request) -> Strict | None:
        """Where the request's learned weights come from; None without any."""
        return getattr(request, "parameters", None)

    def parameters(self, request: Request, shape: Shape) -> tuple[Parameter, ...]:
        """The learned weights for these inputs, in the order they are drawn; none, for some."""
        return ()

    @abstractmethod
    def prepare(
        self,
        request: Request,
        operands: Operands,
        parameters: Mapping[str, Tensor],
        shape: Shape,
    ) -> Prepared:
        """Project the operands."""

    @abstractmethod
    def flops(self, request: Request, shape: Shape) -> int:
        """Floating-point operations of all scores and projections."""

    def remark(
        self,
        request: Request,
        shape: Shape,
        figures: MeanOf,
    ) -> str | None:
        """A sentence about these scores, whose diagnostics have these means; none, for most."""
        return None

    def projected_elements(self, request: Request, shape: Shape) -> int:
        """Elements of the projections, which are held beside the operands."""
        return 0

    def tile_elements(self, request: Request, shape: Shape) -> int:
        """Elements that one thread holds while it scores a block, beside the scores."""
        return 0


def same_dimension(shape: Shape) -> None:
    """Dot products need d_q = d_k.

    Raises:
        ShapeMismatch: they differ.
    """
    if shape.d_q != shape.d_k:
        raise ShapeMismatch(
            f"query and key must have the same dimension for a dot product; found d_q {shape.d_q} "
            f"and d_k {shape.d_k}",
            pointer="/inputs",
        )


def operand(tensor: Tensor | None) -> Tensor:
    """A tensor that these inputs have."""
    if tensor is None:
        message = "scores are computed from a query, a key and a value"
        raise TypeError(message)
    return tensor
