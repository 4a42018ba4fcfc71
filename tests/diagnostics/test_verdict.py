import math

import pytest
import torch

from service.diagnostics.aggregate import undefined
from service.diagnostics.evidence import SINK_ROWS, Setting, advice, evidence
from service.diagnostics.verdict import REGIMES, Counts, level
from tests.builders import analyse, given_logits, given_weights, normal

DOUBLE = torch.float64
BELOW, ABOVE = -math.inf, math.inf
NOTHING = undefined(1, 1, {}, {})


def regime(max_weight, normalized_entropy):
    """The regime of one row."""
    columns = (torch.tensor([value], dtype=DOUBLE) for value in (max_weight, normalized_entropy))
    shares = Counts.of(*columns).shares()
    return next((name for name, share in shares.items() if share), None)


@pytest.mark.parametrize(
    ("max_weight", "normalized_entropy", "expected"),
    [
        (0.9, 0.2, "saturated"),
        (0.9, 0.99, "saturated"),
        (math.nextafter(0.9, BELOW), 0.2, "sharp"),
        (0.4, math.nextafter(0.5, BELOW), "sharp"),
        (0.4, 0.5, "healthy"),
        (0.4, 0.95, "healthy"),
        (0.4, math.nextafter(0.95, ABOVE), "diffuse"),
        (1.0, math.nan, None),
    ],
)
def test_the_regime_of_a_row_changes_exactly_at_the_thresholds(
    max_weight, normalized_entropy, expected
):
    """Saturated from 0.9 on, else sharp below 0.5, else diffuse above 0.95, else healthy."""
    assert regime(max_weight, normalized_entropy) == expected


@pytest.mark.parametrize(
    ("saturated", "sharp", "diffuse", "rows", "expected"),
    [
        (5, 0, 5, 10, "saturated"),
        (4, 0, 6, 10, "diffuse"),
        (4, 1, 5, 10, "sharp"),
        (0, 5, 5, 10, "sharp"),
        (0, 4, 5, 10, "diffuse"),
        (2, 2, 4, 10, "healthy"),
        (0, 0, 0, 10, "healthy"),
        (3, 0, 0, 7, "healthy"),
        (4, 0, 0, 7, "saturated"),
        (0, 0, 0, 0, None),
    ],
)
def test_a_head_takes_the_first_rule_that_half_of_its_rows_fulfil(
    saturated, sharp, diffuse, rows, expected
):
    """Saturated, then saturated and sharp together, then diffuse, at exactly one half of them."""
    assert level(saturated, sharp, diffuse, rows) == expected


def row(kind, keys=7):
    """Logits of a row in one regime; `one` sees a single key, `none` no key at all."""
    logits = torch.zeros(keys, dtype=DOUBLE)
    if kind == "saturated":
        logits[0] = 9
    elif kind == "sharp":
        logits[:2] = 6
    elif kind == "healthy":
        logits[0] = 2
    elif kind == "one":
        logits[1:] = -math.inf
    elif kind == "none":
        logits[:] = -math.inf
    return logits


def judged(*heads):
    """The verdict over heads that are given as lists of regimes."""
    logits = torch.stack([torch.stack([row(kind) for kind in head]) for head in heads])
    return analyse(inputs=given_logits(logits[None]), include=["diagnostics"]).verdict


def test_heads_and_the_whole_over_all_rows_pooled():
    """Each head has its level; the whole is judged by all rows together, not by its heads."""
    verdict = judged(
        ["saturated", "saturated", "saturated", "saturated", "none"],
        ["diffuse", "diffuse", "diffuse", "healthy", "saturated"],
        ["sharp", "sharp", "sharp", "healthy", "healthy"],
    )
    assert verdict.heads == [["saturated", "diffuse", "sharp"]]
    assert verdict.level == "sharp"
    assert verdict.rows == 14
    assert verdict.shares == {
        "saturated": 5 / 14,
        "sharp": 3 / 14,
        "healthy": 3 / 14,
        "diffuse": 3 / 14,
    }


def test_rows_with_one_key_or_none_have_no_regime():
    """They count nowhere, and a head of nothing else has no level."""
    verdict = judged(["one", "none", "one"], ["healthy", "one", "none"])
    assert verdict.heads == [[None, "healthy"]]
    assert verdict.level == "healthy"
    assert verdict.rows == 1
    nothing = judged(["one", "none"])
    assert (nothing.level, nothing.rows) == (None, 0)
    assert nothing.shares == dict.fromkeys(REGIMES)


def test_counts_pool_over_batch_items():
    """Counts of the same head in several items add up, as a ranking of heads needs."""
    entropy = torch.tensor([[[0.1, 0.7]], [[0.2, 0.99]]], dtype=DOUBLE)
    counts = Counts.of(torch.full_like(entropy, 0.3), entropy)
    assert counts.levels() == ["sharp", "sharp"]
    assert counts.pooled(0).levels() == ["sharp"]
    assert [int(c) for c in (counts.pooled(0, 1).sharp, counts.pooled(0, 1).rows)] == [2, 4]


# Two logits so far apart have the saturation index 1.
EDGE = math.sqrt(8 * math.log(2))


def found_evidence(name, **request):
    """One item of the evidence of an analysis."""
    include = ["diagnostics", "key_share"]
    items = analyse(include=include, **request).verdict.evidence
    return next((item for item in items if item.name == name), None)


@pytest.mark.parametrize(
    ("name", "threshold", "logits"),
    [
        ("logit_max", 100.0, [[100.0, 0.0], [3.0, 4.0]]),
        ("logit_max_abs", 50.0, [[-50.0, 0.0], [3.0, 4.0]]),
        ("saturation_index", 1.0, [[EDGE + 1, 0.0], [EDGE - 1, 0.0]]),
    ],
)
def test_evidence_holds_above_its_threshold_only(name, threshold, logits):
    """At the threshold of the literature nothing holds yet; just above it does."""
    logits = torch.tensor(logits, dtype=DOUBLE)
    at = found_evidence(name, inputs=given_logits(logits * (1 - 1e-12)))
    above = found_evidence(name, inputs=given_logits(logits * (1 + 1e-12)))
    assert at.threshold == above.threshold == threshold
    assert at.value == pytest.approx(threshold)
    assert (at.holds, above.holds) == (False, True)
    exactly = given_logits(torch.tensor([[threshold, 0.0]], dtype=DOUBLE))
    if name != "saturation_index":
        assert found_evidence(name, inputs=exactly).holds is False


def sink_logits(rows):
    """Rows over 7 keys of which the third takes more than 0.3 of the weight."""
    logits = torch.zeros(rows, 7, dtype=DOUBLE)
    logits[:, 2] = 2
    return logits


def test_a_sink_needs_eight_rows():
    """A key is a sink above 0.3 of the weight of at least eight rows that see it."""
    assert SINK_ROWS == 8
    few = found_evidence("key_share", inputs=given_logits(sink_logits(7)))
    assert (few.value, few.holds) == (None, None)
    many = found_evidence("key_share", inputs=given_logits(sink_logits(8)))
    share = math.exp(2) / (math.exp(2) + 6)
    assert many.value == pytest.approx(share)
    assert many.holds is True
    hidden = sink_logits(11)
    hidden[:4, 2] = -math.inf
    seven = found_evidence("key_share", inputs=given_logits(hidden))
    assert seven.value < 0.3
    assert seven.holds is False


def test_a_share_of_exactly_three_tenths_is_no_sink():
    """The threshold of 0.3 is to be exceeded."""
    share = torch.tensor([[[0.3, 0.1]]], dtype=DOUBLE)
    (item,) = evidence(NOTHING, share, torch.full_like(share, 8))
    assert (item.value, item.threshold, item.holds) == (0.3, 0.3, False)


def test_weights_bring_no_evidence_on_logits():
    """Given weights have no logits: only what follows from weights is judged."""
    weights = torch.softmax(sink_logits(11), -1)
    verdict = analyse(inputs=given_weights(weights), include=["diagnostics", "key_share"]).verdict
    assert [item.name for item in verdict.evidence] == ["key_share"]
    assert verdict.level == "healthy"


def setting(**changed):
    """What advice is computed from, with nothing to complain of."""
    healthy = {
        "level": "healthy",
        "scale": 0.125,
        "default_scale": 0.125,
        "default_is_root": True,
        "products": True,
        "explained": False,
        "saturated_heads": [],
        "logit_variance": 1.0,
        "largest_logit": 4.0,
        "near_forbidden": 0,
    }
    return Setting(**(healthy | changed))


def test_a_healthy_head_needs_no_advice():
    """Without anything to mend nothing is said."""
    assert advice(setting()) == []


@pytest.mark.parametrize(
    ("changed", "numbers"),
    [
        ({"level": "saturated", "scale": 1.0}, ["scale is 1,", "8 times", "0.125"]),
        ({"level": "sharp", "scale": -0.5}, ["scale is -0.5,", "4 times"]),
        ({"level": "sharp", "logit_variance": 36.0}, ["deviation of 6,", "temperature near 6 or"]),
        ({"largest_logit": 400.0}, ["logit is 400:", "by 0.25;"]),
        ({"level": "diffuse"}, ["nearly uniform"]),
    ],
)
def test_advice_names_the_numbers_of_the_request(changed, numbers):
    """Each piece of advice is said in its case alone, with the figures it is computed from."""
    (said,) = advice(setting(**changed))
    for number in numbers:
        assert number in said


def test_keys_that_were_meant_to_be_hidden_come_before_all_else():
    """The figures are those of the bias: nothing that would follow from them is advised."""
    sharp = {"level": "sharp", "logit_variance": 1e76, "scale": 1.0, "largest_logit": 400.0}
    (said,) = advice(setting(**sharp, near_forbidden=192))
    assert said.startswith("192 bias entries")
    assert "forbid_below" in said


@pytest.mark.parametrize(
    "changed",
    [
        {"scale": 1.0},
        {"logit_variance": 36.0},
        {"level": "sharp", "scale": 0.125 * 1.5},
        {"level": "saturated", "logit_variance": 4.0},
        {"level": "saturated", "scale": None, "default_scale": None, "logit_variance": None},
        {"largest_logit": 100.0},
        {"largest_logit": None},
    ],
)
def test_advice_is_silent_up_to_its_threshold(changed):
    """Scale and spread are mentioned where rows are concentrated, and past the thresholds only."""
    assert advice(setting(**changed)) == []


def test_the_verdict_of_an_unscaled_head_advises_the_default_scale():
    """At scale 1 with 64 dimensions rows saturate, and the advice says 8 times 1/sqrt(d_k)."""
    inputs = {"kind": "seeded", "query_length": 13, "key_length": 17, "d_k": 64}
    unscaled = analyse(inputs=inputs, mechanism={"scale": 1.0}, include=["diagnostics"]).verdict
    assert unscaled.level in ("saturated", "sharp")
    assert any("The scale is 1, 8 times the default 0.125" in said for said in unscaled.advice)
    scaled = analyse(inputs=inputs, include=["diagnostics"]).verdict
    assert scaled.level == "healthy"
    assert scaled.advice == []


def test_the_verdict_of_uniform_rows_is_diffuse():
    """Equal logits are diffuse, with advice to sharpen."""
    logits = normal(5, 7, dtype=DOUBLE) * 1e-3
    verdict = analyse(inputs=given_logits(logits), include=["diagnostics"]).verdict
    assert verdict.level == "diffuse"
    assert "nearly uniform" in verdict.advice[0]
