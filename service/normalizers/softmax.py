"""The softmax, which the pass streams."""

from service.normalizers.base import STREAMED, Description, ExponentialNormalizer


class Softmax(ExponentialNormalizer):
    """p = exp(s) / Σ exp(s)."""

    description = Description(
        name="softmax",
        meaning="Positive weights that sum to 1; ratios of weights are exponentials of differences "
        "of logits, so large logits give nearly one-hot rows that pass almost no gradient.",
        formula="p_j = exp(s_j) / Σ_k exp(s_k) over the visible keys",
        source="Bridle 1990; Vaswani et al. 2017, arXiv 1706.03762",
        memory=STREAMED,
    )
