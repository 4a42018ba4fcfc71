import math

import pytest
import torch

from service.theory.normal_logits import mean_over_rows
from tests.builders import analyse, normal, qkv

NAMES = ("score_variance", "row_variance", "entropy", "participation")


def panel(inputs, **request):
    """Theory beside the measurement."""
    return analyse(inputs=inputs, include=["theory"], **request).theory


def seeded(seed, **options):
    """Normal inputs drawn from a seed."""
    sizes = {"query_length": 5, "key_length": 13, "d_k": 7}
    return {"kind": "seeded", "seed": seed} | sizes | options


def probability_below(squares, count):
    """The chi-square distribution with `count` degrees of freedom at Σ z²."""
    half = torch.tensor([count / 2, squares / 2], dtype=torch.float64)
    return float(torch.special.gammainc(half[0], half[1]))


def assert_standard_normal(z):
    """Every |z| is at most 4, and Σ z² and Σ z lie where standard normals would put them."""
    assert max(abs(value) for value in z) <= 4
    assert 1e-4 < probability_below(sum(value**2 for value in z), len(z)) < 1 - 1e-4
    assert abs(sum(z)) <= 4 * math.sqrt(len(z))


MANY_GROUPS = {"batch": 3, "heads": 2 * 97, "kv_heads": 97}
"""More groups than the spread of the softmax is taken over: only the scores are of interest."""


@pytest.mark.parametrize("options", [{}, MANY_GROUPS], ids=["one head", "grouped heads"])
@pytest.mark.parametrize("std", [1.0, 2.5])
def test_scores_lie_within_their_standard_error(options, std):
    """Over many seeds the z of score and row variance are those of standard normals."""
    options = {"query_length": 31, "key_length": 37} | options | {"std": std}
    if "batch" in options:
        options |= {"query_length": 3, "key_length": 5}
    panels = [panel(seeded(seed, **options)) for seed in range(40)]
    for name in ("score_variance", "row_variance"):
        predictions = [getattr(p, name) for p in panels]
        assert all(p.reason is None and p.standard_error > 0 for p in predictions)
        assert_standard_normal([p.z for p in predictions])
    assert panels[0].score_variance.predicted == pytest.approx(7 * std**4)
    rows = 1 - 1 / options["key_length"]
    assert panels[0].row_variance.predicted == pytest.approx(7 * std**4 * rows)


def test_the_standard_errors_of_the_scores_by_hand():
    """SE² is 2/(dNBH) + 2/(dMBG) + (2 + 2/d)/(NMBH) of the prediction's, M − 1 within rows."""
    d, n, m, b, h, g = 7, 3, 5, 2, 6, 3
    sizes = {"batch": b, "heads": h, "kv_heads": g, "query_length": n, "key_length": m, "d_k": d}
    found = panel({"kind": "seeded"} | sizes)
    for prediction, keys in ((found.score_variance, m), (found.row_variance, m - 1)):
        square = 2 / (d * n * b * h) + 2 / (d * keys * b * g) + (2 + 2 / d) / (n * keys * b * h)
        error = prediction.predicted * math.sqrt(square)
        assert prediction.standard_error == pytest.approx(error, rel=1e-12)


@pytest.mark.parametrize("scale", [None, 2.0], ids=["scaled", "sharp"])
def test_entropy_and_participation_lie_within_their_standard_error(scale):
    """Over seeds the z from the spread between heads are those of standard normals."""
    options = {"batch": 3, "heads": 10, "kv_heads": 5}
    panels = [panel(seeded(seed, **options), mechanism={"scale": scale}) for seed in range(10)]
    for name in ("entropy", "participation"):
        assert_standard_normal([getattr(p, name).z for p in panels])


@pytest.mark.parametrize("mask", [{}, {"causal": "lower_right"}], ids=["", "causal"])
@pytest.mark.parametrize("options", [{}, {"mean": 0.8, "std": 1.3}], ids=["mean 0", "mean 0.8"])
def test_the_softmax_is_predicted_without_bias(options, mask):
    """Over many single heads measured − predicted averages to 0, masked and off mean 0 too."""
    panels = [panel(seeded(seed, **options), mask=mask) for seed in range(100)]
    for name in ("entropy", "participation"):
        gaps = torch.tensor(
            [getattr(p, name).measured - getattr(p, name).predicted for p in panels]
        )
        assert abs(gaps.mean()) <= 4 * gaps.std() / math.sqrt(len(gaps))
        assert all(getattr(p, name).standard_error is None for p in panels)


def test_given_tensors_are_predicted_from_their_own_moments():
    """For normal tensors that are given, the moments are measured and the panel says so."""
    query, key = normal(2, 3, 5, 7, seed=1) * 1.5, normal(2, 3, 211, 7, seed=2) * 0.5 + 3
    found = panel(qkv(query, key))
    assert "measured on these tensors" in found.assumption
    assert abs(found.entropy.measured - found.entropy.predicted) < 0.05
    assert found.row_variance.predicted == pytest.approx(found.row_variance.measured, rel=0.2)
    norms = query.double().norm(dim=-1)
    spread = key.double().var(2, correction=0).mean(-1).sqrt()
    sigma = norms * spread.unsqueeze(-1) / math.sqrt(7)
    expected = mean_over_rows(sigma, torch.full_like(sigma, 211.0))
    assert found.entropy.predicted == pytest.approx(float(expected[0]))
    assert found.participation.predicted == pytest.approx(float(expected[1]))


def test_masked_scores_have_no_standard_error():
    """The standard errors are those without a mask; under one they are left out, as is z."""
    found = panel(seeded(0), mask={"causal": "upper_left"})
    for name in ("score_variance", "row_variance"):
        prediction = getattr(found, name)
        assert prediction.predicted is not None
        assert (prediction.standard_error, prediction.z) == (None, None)
        assert "no mask" in prediction.reason


@pytest.mark.parametrize("dtype", [None, "float16", "float64"])
def test_self_attention_is_not_predicted(dtype):
    """Where the key is the query nothing is predicted, and the reason is said, in any dtype."""
    drawn = {"kind": "seeded", "query_length": 11, "d_k": 7, "self_attention": True}
    for inputs in (drawn, qkv(normal(11, 7))):
        found = panel(inputs, compute={"dtype": dtype})
        for name in NAMES:
            prediction = getattr(found, name)
            assert (prediction.predicted, prediction.z) == (None, None), name
            assert "query itself" in prediction.reason
            assert prediction.measured is not None


@pytest.mark.parametrize(
    ("mechanism", "mask"),
    [({"softcap": 2.0}, {}), ({}, {"bias": normal(5, 13)})],
    ids=["softcap", "bias"],
)
def test_reshaped_logits_are_not_predicted_but_scores_are(mechanism, mask):
    """After a softcap or a bias logits are not normal: only the scores keep their prediction."""
    found = panel(seeded(0), mechanism=mechanism, mask=mask)
    for name in ("entropy", "participation"):
        prediction = getattr(found, name)
        assert prediction.predicted is None
        assert "softcap or a bias" in prediction.reason
        assert prediction.measured is not None
    assert found.score_variance.predicted == pytest.approx(7.0)
    assert "softcap" not in (found.score_variance.reason or "")
    unshaped = panel(seeded(0))
    assert found.score_variance.measured == pytest.approx(
        unshaped.score_variance.measured, rel=1e-5
    )


def test_rows_of_one_key_predict_no_spread():
    """Where no row sees two keys, row variance and softmax are undefined, with the reason."""
    found = panel(seeded(0), mask={"window": {"left": 0, "right": 0}})
    for name in NAMES[1:]:
        prediction = getattr(found, name)
        assert (prediction.predicted, prediction.measured) == (None, None)
        assert "two visible keys" in prediction.reason
    assert found.score_variance.measured is not None
    assert found.asymptotes == {}


def test_the_asymptotes_are_labelled_and_far_off():
    """The limits stand beside the predictions as such; at σ = 3 and n = 128 they are far off."""
    inputs = seeded(0, query_length=61, key_length=128, d_k=64)
    found = panel(inputs, mechanism={"scale": 3 / 8})
    limits = found.asymptotes
    assert limits["sigma"] == pytest.approx(3.0, rel=0.1)
    assert limits["keys"] == 128
    assert limits["critical_sigma"] == pytest.approx(math.sqrt(2 * math.log(128)))
    assert "far off at finite n" in limits["entropy"]["source"]
    assert limits["entropy"]["value"] < 1 < 2 < found.entropy.predicted
    assert abs(found.entropy.measured - found.entropy.predicted) < 0.2


def test_theory_of_tensors_near_the_largest_float_is_undefined():
    """Means whose squares leave float64 give no figure, and no error."""
    query = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    found = panel({"kind": "tensors", "query": query, "key": query * 1e200})
    assert found.score_variance.z is None or not math.isfinite(found.score_variance.z)
