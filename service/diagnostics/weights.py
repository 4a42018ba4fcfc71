"""What weights that need not sum to 1, or may be exactly 0, come to."""

import numpy as np

from service.diagnostics.base import Diagnostic

WEIGHTS = (
    Diagnostic(
        name="row_sum",
        meaning="Sum of the row's weights.",
        formula="Σ p",
        unit="1",
        range="[0, n]",
        source="definition",
        compute=lambda rows: rows.row_sum,
        trivial_for_softmax=True,
        softmax_value=1.0,
    ),
    Diagnostic(
        name="null_mass",
        meaning="What the row leaves to the null key: near 1, the head says nothing here.",
        formula="1 - Σ p = exp(-lse)",
        unit="1",
        range="[0, 1]",
        source="Miller 2023, Attention Is Off By One",
        compute=lambda rows: np.exp(-rows.log_partition),
        normalizers=frozenset({"softmax_one"}),
        trivial_for_softmax=True,
    ),
    Diagnostic(
        name="support_size",
        meaning="How many keys have a weight above 0.",
        formula="number of p > 0",
        unit="keys",
        range="[1, n]",
        source="Martins and Astudillo 2016, arXiv 1602.02068",
        compute=lambda rows: rows.support,
        normalizers=frozenset({"sparsemax", "entmax15"}),
        trivial_for_softmax=True,
    ),
)
