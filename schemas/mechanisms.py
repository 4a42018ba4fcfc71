"""The attention mechanisms and the options they share."""

from typing import Annotated, Literal

from pydantic import Field

from schemas.normalizers import NormalizerName
from schemas.strict import Strict


class ScaledDotProduct(Strict):
    """Softmax(scale · q kᵀ) v (Vaswani et al. 2017, arXiv 1706.03762)."""

    kind: Literal["scaled_dot_product"] = "scaled_dot_product"
    scale: float | None = Field(
        None, description="Factor on the scores; absent = 1/sqrt(d_k). 0 and negative are legal."
    )
    softcap: Annotated[float, Field(ge=1e-6, le=1e9)] | None = Field(
        None, description="c · tanh(logit / c), before bias and masks; absent = none."
    )
    normalizer: NormalizerName = "softmax"
    qk_norm: Literal["none"] = Field("none", description="Normalisation of query and key.")


Mechanism = ScaledDotProduct
