"""Diagnostics of rows that are no softmax: by plain formulas, or undefined with a reason."""

import math

import pytest
import torch

from service.diagnostics import DIAGNOSTICS
from service.diagnostics.verdict import OFF_SOFTMAX
from service.normalizers import NORMALIZERS, reference
from tests.builders import analyse, given_logits, given_weights, normal
from tests.passes import set_blocks

DOUBLE = torch.float64
INCLUDE = ["row_diagnostics", "diagnostics"]
OTHERS = [name for name in NORMALIZERS if name != "softmax"]
SHAPE = (2, 3, 5, 7)

each_other = pytest.mark.parametrize("name", OTHERS)


@pytest.fixture(params=[2, 1024], ids=["key blocks of 2", "whole rows"], autouse=True)
def key_block(request, monkeypatch):
    """Every figure is the same from rows in several ranges of keys and from whole rows."""
    set_blocks(monkeypatch, keys=request.param)


def some_logits():
    """Logits with hidden keys, a row that sees one key and a row that sees none."""
    logits = 1.5 * normal(*SHAPE, seed=1, dtype=DOUBLE)
    logits = logits.masked_fill(normal(*SHAPE, seed=2) > 1, -math.inf)
    logits[0, 1, 2] = -math.inf
    logits[1, 2, 3] = -math.inf
    logits[1, 2, 3, 4] = 0.3
    return logits


def found_in(name, logits):
    """The analysis of given logits."""
    return analyse(inputs=given_logits(logits), mechanism={"normalizer": name}, include=INCLUDE)


def plain(name, logits):
    """What is defined off softmax, from the weights of the readable formula."""
    p = getattr(reference, name)(logits)
    n = (logits != -math.inf).sum(-1).double()
    total = p.sum(-1)
    share = p / total.unsqueeze(-1)
    entropy = torch.special.entr(share).sum(-1)
    figures = {
        "row_sum": total,
        "max_weight": p.amax(-1),
        "entropy": entropy,
        "effective_keys": entropy.exp(),
        "participation_ratio": 1 / share.square().sum(-1),
        "normalized_entropy": torch.where(n > 1, entropy / n.log(), math.nan),
        "visible_keys": n,
        "argmax": torch.where(n > 0, logits.argmax(-1), -1).double(),
        "logit_max": logits.amax(-1),
    }
    if name == "softmax_one":
        figures["null_mass"] = 1 - total
        figures["lse"] = (1 + logits.exp().sum(-1)).log()
    if name in ("sparsemax", "entmax15"):
        figures["support_size"] = (p > 0).sum(-1).double()
    always = ("visible_keys", "argmax")
    return {
        figure: value if figure in always else torch.where(n > 0, value, math.nan)
        for figure, value in figures.items()
    }


@each_other
def test_figures_of_the_weights_are_their_plain_definitions(name):
    """Entropy and participation are those of the row over its sum; the others of the row itself."""
    logits = some_logits()
    seen = (logits != -math.inf).any(-1)
    found = found_in(name, logits).rows
    for figure, expected in plain(name, logits).items():
        torch.testing.assert_close(
            found[figure][seen], expected[seen], rtol=1e-11, atol=1e-12, equal_nan=True, msg=figure
        )
        if figure not in ("lse", "visible_keys", "argmax"):
            assert found[figure][~seen].isnan().all()


@each_other
def test_figures_of_another_normalizer_are_undefined_with_a_reason(name):
    """What is not defined here is in no row, NaN in the aggregate, and says for whom it is."""
    found = found_in(name, some_logits())
    missing = [d for d in DIAGNOSTICS.values() if d.normalizers and name not in d.normalizers]
    assert {"jacobian_trace", "logit_variance_under_p"} <= {d.name for d in missing}
    for diagnostic in missing:
        aggregated = found.diagnostics[diagnostic.name]
        assert diagnostic.name not in found.rows
        assert aggregated.reason == f"defined for {diagnostic.listed_normalizers}, not for {name}"
        assert aggregated.mean.isnan().all()
        assert not aggregated.rows.any()


@each_other
def test_what_is_defined_has_no_reason_and_its_rows(name):
    """Figures that are there are aggregated over the rows that see a key."""
    found = found_in(name, some_logits())
    aggregated = found.diagnostics["row_sum"]
    assert aggregated.reason is None
    assert aggregated.rows.tolist() == [[5, 4, 5], [5, 5, 5]]
    torch.testing.assert_close(aggregated.mean, found.rows["row_sum"].nanmean(-1))


@each_other
def test_the_verdict_off_softmax_has_no_level_and_says_why(name):
    """The rules are about softmax weights: level, heads and shares are None, with the reason."""
    verdict = found_in(name, some_logits()).verdict
    assert (verdict.level, verdict.reason, verdict.rows) == (None, OFF_SOFTMAX, 0)
    assert verdict.heads == [[None] * 3] * 2
    assert set(verdict.shares.values()) == {None}
    assert verdict.advice == []


def test_softmax_has_a_level_and_leaves_out_what_it_makes_trivial():
    """Softmax rows have neither row_sum, null_mass nor support_size, and no reason is given."""
    found = found_in("softmax", some_logits())
    assert found.verdict.level is not None
    assert found.verdict.reason is None
    trivial = {d.name for d in DIAGNOSTICS.values() if d.trivial_for_softmax}
    assert trivial == {"row_sum", "null_mass", "support_size"}
    assert not trivial & (set(found.rows) | set(found.diagnostics))


@each_other
def test_second_pass_figures_are_those_of_the_weights(name):
    """key_share and sparsity follow from the weights; the softmax's eigenvalue is undefined."""
    logits = some_logits()
    include = ["key_share", "sparsity", "jacobian_spectral"]
    found = analyse(inputs=given_logits(logits), mechanism={"normalizer": name}, include=include)
    p, seen = getattr(reference, name)(logits), logits != -math.inf
    rows = seen.sum(-2).double()
    share = torch.where(rows > 0, p.sum(-2) / rows, math.nan)
    torch.testing.assert_close(
        found.tensors["key_share"], share, rtol=1e-11, atol=1e-13, equal_nan=True
    )
    small = (p < 0.01 * p.amax(-1, keepdim=True)) & seen
    sparsity = small.sum(-1) / seen.sum(-1).double()
    torch.testing.assert_close(found.rows["sparsity"], sparsity, rtol=0, atol=0, equal_nan=True)
    assert "jacobian_spectral" not in found.rows
    assert name in found.diagnostics["jacobian_spectral"].reason


def test_null_mass_keeps_its_digits_where_the_row_says_almost_everything():
    """At a logit of 40 the null mass is e^-40, not 1 − 1; at −40 it is 1 − e^-40."""
    logits = torch.tensor([[40.0, -30.0], [-40.0, -90.0]], dtype=DOUBLE)
    found = found_in("softmax_one", logits).rows
    torch.testing.assert_close(
        found["null_mass"][0, 0],
        torch.tensor([math.exp(-40), 1.0], dtype=DOUBLE),
        rtol=1e-12,
        atol=0,
    )
    torch.testing.assert_close(
        found["row_sum"][0, 0, 1], torch.tensor(math.exp(-40), dtype=DOUBLE), rtol=1e-12, atol=0
    )


def test_support_counts_exactly_the_weights_above_0():
    """Keys within the threshold, ties among them, and no hidden key are counted."""
    logits = torch.tensor([[0.0, 0.0, -0.3, -5.0, -math.inf], [9.0, 0.0, 0.0, 0.0, 0.0]])
    for name, expected in (("sparsemax", [3.0, 1.0]), ("entmax15", [3.0, 1.0])):
        assert found_in(name, logits).rows["support_size"][0, 0].tolist() == expected


def test_given_weights_take_no_other_normalizer():
    """Weights that come from elsewhere are rows of softmax as far as the verdict goes."""
    weights = torch.softmax(normal(*SHAPE), -1)
    found = analyse(inputs=given_weights(weights), include=INCLUDE)
    assert found.verdict.level is not None


def test_sigmoid_weights_below_every_float32_still_have_an_entropy():
    """Logits of −120 flush in float32: they are counted, and the figures are those of float64."""
    logits = torch.tensor([[-120.0, -121.0, -119.5]])
    found = analyse(
        inputs=given_logits(logits),
        mechanism={"kind": "scaled_dot_product", "normalizer": "sigmoid"},
        include=["row_diagnostics"],
    )
    shares = torch.softmax(logits.double(), -1)  # σ(s) is exp(s) there, to all digits
    expected = torch.special.entr(shares).sum()
    assert float(found.rows["entropy"]) == pytest.approx(float(expected), rel=1e-9)
    assert found.numerics.underflowed_weights == 3
