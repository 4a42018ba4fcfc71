"""The attention mechanisms and the options they share."""

from typing import Annotated, Literal, get_args

from pydantic import Discriminator, Field, Tag

from schemas.normalizers import NormalizerName
from schemas.parameters import (
    AdditiveParameters,
    Extent,
    MultiHeadParameters,
    MultiplicativeParameters,
    SeededParameters,
    SeededWeights,
    parameters_form,
)
from schemas.strict import Strict

QkNorm = Literal["none", "l2", "rms"]
_FORM = Discriminator(parameters_form)
SMALLEST_SOFTCAP, LARGEST_SOFTCAP = 1e-6, 1e9
LARGEST_BASE = 1e9


class LogLength(Strict):
    """The default scale × ln n / ln base, n the row's visible keys: sharper where more compete.

    Keeps the entropy of a row from growing with its length (Chiang and Cholak 2022, arXiv
    2202.12172; Scalable-Softmax, arXiv 2501.19399). At n = base it is the default.
    """

    kind: Literal["log_length"]
    base: Annotated[float, Field(gt=1, le=LARGEST_BASE)] = Field(
        description="The number of keys at which the default scale is right, that of training."
    )


def _scale_form(value: object) -> str:
    return "log_length" if isinstance(value, dict | LogLength) else "number"


Scale = Annotated[
    Annotated[float, Tag("number")] | Annotated[LogLength, Tag("log_length")],
    Discriminator(_scale_form),
]


class MechanismOptions(Strict):
    """What every mechanism takes."""

    scale: Scale | None = Field(
        None,
        description="Factor on the scores; absent = the mechanism's default, which the answer "
        "shows. 0 and negative are legal; a temperature t is the default divided by t. As an "
        'object {"kind": "log_length", "base": b}: the default × ln n / ln b in a row of n keys.',
    )
    softcap: Annotated[float, Field(ge=SMALLEST_SOFTCAP, le=LARGEST_SOFTCAP)] | None = Field(
        None, description="c · tanh(logit / c), before bias and masks; absent = none."
    )
    normalizer: NormalizerName = "softmax"
    qk_norm: QkNorm = Field(
        "none",
        description="Normalisation of query and key before their dot product: l2 = x/‖x‖ (default "
        "scale then sqrt(d_k)), rms = x/sqrt(mean x²).",
    )


class ScaledDotProduct(MechanismOptions):
    """softmax(q kᵀ / sqrt(d_k)) v (Vaswani et al. 2017, arXiv 1706.03762)."""

    kind: Literal["scaled_dot_product"] = "scaled_dot_product"


class Additive(MechanismOptions):
    """vᵀ tanh(W_q q + W_k k + b) (Bahdanau, Cho and Bengio 2014, arXiv 1409.0473); scale 1."""

    kind: Literal["additive"]
    parameters: Annotated[
        Annotated[SeededParameters, Tag("seeded")] | Annotated[AdditiveParameters, Tag("given")],
        _FORM,
    ] = SeededParameters()


class Multiplicative(MechanismOptions):
    """q·k, qᵀ W k or vᵀ tanh(W [q; k]) (Luong et al. 2015, arXiv 1508.04025); scale 1."""

    kind: Literal["multiplicative"]
    score: Literal["dot", "general", "concat"] = Field(
        "dot", description="dot: q·k; general: qᵀ W k; concat: vᵀ tanh(W [q; k])."
    )
    parameters: Annotated[
        Annotated[SeededParameters, Tag("seeded")]
        | Annotated[MultiplicativeParameters, Tag("given")],
        _FORM,
    ] = Field(SeededParameters(), description="Of general and concat; dot has none.")


class MultiHead(MechanismOptions):
    """Projections to heads, scaled dot products, and a projection back (Vaswani et al. 2017)."""

    kind: Literal["multi_head"]
    heads: Extent = Field(8, description="Must be named where weights are given.")
    kv_heads: Extent | None = Field(
        None, description="Key/value heads: fewer = grouped-query, 1 = multi-query; absent = heads."
    )
    parameters: Annotated[
        Annotated[SeededWeights, Tag("seeded")] | Annotated[MultiHeadParameters, Tag("given")],
        _FORM,
    ] = SeededWeights()


def mechanism_models() -> tuple[type[MechanismOptions], ...]:
    """The models that the union tells apart."""
    tagged = get_args(get_args(Mechanism)[0])
    return tuple(get_args(member)[0] for member in tagged)


def parameter_models(mechanism: type[MechanismOptions]) -> tuple[type[Strict], ...]:
    """What a mechanism's `parameters` may be, seeded or given; none without learned weights."""
    if "parameters" not in mechanism.model_fields:
        return ()
    members = get_args(mechanism.model_fields["parameters"].annotation)
    return tuple(get_args(member)[0] for member in members)


def weights_of(mechanism: type[MechanismOptions]) -> tuple[str, ...]:
    """The names of the learned weights that can be given to a mechanism."""
    given = [m for m in parameter_models(mechanism) if not issubclass(m, SeededWeights)]
    return tuple(name for model in given for name in model.model_fields if name != "kind")


def weight_names() -> tuple[str, ...]:
    """The names of all learned weights that can be given, each once."""
    found = (name for mechanism in mechanism_models() for name in weights_of(mechanism))
    return tuple(dict.fromkeys(found))


def mechanism_kind(value: object) -> str | None:
    """The tag of a mechanism; scaled_dot_product where it says nothing."""
    if isinstance(value, dict):
        kind = value.get("kind", "scaled_dot_product")
        return kind if isinstance(kind, str) else None
    return getattr(value, "kind", None)


Mechanism = Annotated[
    Annotated[ScaledDotProduct, Tag("scaled_dot_product")]
    | Annotated[Additive, Tag("additive")]
    | Annotated[Multiplicative, Tag("multiplicative")]
    | Annotated[MultiHead, Tag("multi_head")],
    Discriminator(mechanism_kind),
]
