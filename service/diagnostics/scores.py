"""How large the scores are, before scale, softcap and bias."""

from service.diagnostics.base import Diagnostic

SCORES = (
    Diagnostic(
        name="score_mean",
        meaning="Mean score of the row.",
        formula="mean of the scores over the visible keys",
        unit="1",
        range="(-inf, inf)",
        source="definition",
        compute=lambda rows: rows.score_mean,
        needs="scores",
    ),
    Diagnostic(
        name="score_variance",
        meaning="Variance of the row's scores; dot products of independent unit-variance entries "
        "have about d_k, which is why attention divides by sqrt(d_k).",
        formula="mean of (score - mean)^2 over the visible keys",
        unit="1",
        range="[0, inf)",
        source="Vaswani et al. 2017, arXiv 1706.03762, footnote 4",
        compute=lambda rows: rows.score_variance,
        needs="scores",
    ),
    Diagnostic(
        name="score_max_abs",
        meaning="The largest magnitude among the scores; float16 products overflow at 65,504.",
        formula="max of |score| over the visible keys",
        unit="1",
        range="[0, inf)",
        source="definition",
        compute=lambda rows: rows.score_max_abs,
        needs="scores",
    ),
)
