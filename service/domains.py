"""Where the figures of a second pass are defined, and why not elsewhere."""

from typing import Any

from schemas.attention import AttentionRequest
from service.mechanisms import MECHANISMS
from service.mechanisms.base import Mechanism


def _member(request: AttentionRequest) -> Mechanism[Any]:
    return MECHANISMS[request.mechanism.kind]


def _normalizer(request: AttentionRequest) -> str | None:
    name = request.mechanism.normalizer
    return None if name == "softmax" else f"defined for softmax, not for {name}"


def _products(request: AttentionRequest) -> str | None:
    if not _member(request).scores_projected_products(request.mechanism):
        return "defined for dot-product scores"
    if request.mechanism.qk_norm != "none":
        return "qk_norm makes the score other than bilinear in query and key"
    return None


def jacobian_spectral(request: AttentionRequest) -> str | None:
    """The softmax's own Jacobian."""
    return _normalizer(request)


def certificates(request: AttentionRequest) -> str | None:
    """Lipschitz bounds of the softmax."""
    return _normalizer(request)


def relative_gradient(request: AttentionRequest) -> str | None:
    """Against equal weights that sum to 1, as softmax would give them."""
    alone = request.mechanism.normalizer == "sigmoid"
    return "sigmoid weighs each key on its own: equal weights are no measure" if alone else None


def closed_form(request: AttentionRequest) -> str | None:
    """∂o/∂q = scale · Cov_p(V, K)."""
    return _normalizer(request) or _products(request)


def flip_margin(request: AttentionRequest) -> str | None:
    """The argmax of logits that are scale · q·k, and what all keys of a row share."""
    if (reason := _products(request)) is not None:
        return reason
    if request.mechanism.softcap is not None:
        return "a softcap makes distances between logits other than those of products"
    if request.mechanism.scale == 0:
        return "a scale of 0 prefers no key"
    bias = request.mask.bias
    if bias is not None and bias.shape[-1] != 1:
        return "a bias that differs between keys moves the borders between them"
    return None
