"""The laws of saturation, over many seeds: scores, entropy and Σp² against their predictions."""

import math

import pytest
import torch

from schemas.sweeps import SweepRequest
from service.attention.workers import Workers
from service.laboratory.sweeps import prepare_sweep, run_point
from service.runtime import Runtime
from tests.builders import CPU, analyse

SIGMAS = (0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0)
D_K, KEYS, QUERIES, REPEATS, BLOCKS = 64, 128, 16, 32, 8
NAMES = ("score_variance", "logit_variance", "entropy", "participation", "jacobian_trace")


def probability_below(squares, count):
    """The chi-square distribution with `count` degrees of freedom at Σ z²."""
    half = torch.tensor([count / 2, squares / 2], dtype=torch.float64)
    return float(torch.special.gammainc(half[0], half[1]))


@pytest.fixture(scope="module")
def rows():
    """A row for each σ and block of seeds; no two draw alike."""
    workers, found = Workers(1), {}
    for place, sigma in enumerate(SIGMAS):
        for block in range(BLOCKS):
            request = SweepRequest(
                d_k=[D_K],
                scale=[sigma / math.sqrt(D_K)],
                key_length=[KEYS],
                query_length=QUERIES,
                repeats=REPEATS,
                seed=10_000 * place + REPEATS * block,
                include=[],
            )
            (point,) = prepare_sweep(request, threads=1).points
            found[sigma, block] = run_point(point, Runtime(CPU, workers))
    return found


def z_of(rows, sigma, block, name):
    """Measured less predicted, in standard errors.

    The error of one block of 32 repeats is itself known to 13 %; that of all blocks of this σ,
    which are alike, to 4 %.
    """
    row = rows[sigma, block]
    errors = [rows[sigma, b]["measured"][name]["standard_error"] for b in range(BLOCKS)]
    error = math.sqrt(sum(e**2 for e in errors) / BLOCKS)
    return (row["measured"][name]["mean"] - row["predicted"][name]["value"]) / error


@pytest.mark.parametrize("name", NAMES)
def test_what_is_measured_is_what_is_predicted(rows, name):
    """|z| ≤ 4 everywhere, and Σz² where χ² with 64 degrees of freedom puts it; σ from 0.5 to 20."""
    z = [z_of(rows, *place, name) for place in rows]
    assert max(map(abs, z)) <= 4
    assert 1e-4 < probability_below(sum(value**2 for value in z), len(z)) < 1 - 1e-4
    assert abs(sum(z)) <= 4 * math.sqrt(len(z))


@pytest.mark.parametrize("sigma", SIGMAS)
def test_no_sigma_is_off_by_itself(rows, sigma):
    """The mean z of a σ's blocks is within 4 of its own standard error, for entropy and Σp²."""
    for name in ("entropy", "participation"):
        z = [z_of(rows, sigma, block, name) for block in range(BLOCKS)]
        assert abs(sum(z)) <= 4 * math.sqrt(BLOCKS), name


def test_a_wrong_prediction_would_be_found(rows):
    """The n → ∞ asymptote is not it, nor a variance of d_k instead of (1 − 1/n) d_k."""
    for sigma in (2.0, 3.0, 5.0):
        row = rows[sigma, 0]
        error = row["measured"]["entropy"]["standard_error"]
        off = row["asymptote"]["entropy"]["value"] - row["measured"]["entropy"]["mean"]
        assert abs(off / error) > 10
    z = []
    for row in rows.values():
        measured = row["measured"]["score_variance"]
        z.append((measured["mean"] - D_K) / measured["standard_error"])
    assert abs(sum(z)) > 4 * math.sqrt(len(z))


@pytest.mark.parametrize("d_k", [1, 5, 64, 700])
def test_footnote_4(d_k):
    """The dot product of two unit normal vectors has variance d_k; times 1/sqrt(d_k) it has 1."""
    squares, scaled = [], []
    for seed in range(12):
        inputs = {"kind": "seeded", "seed": seed, "query_length": 24, "key_length": 40, "d_k": d_k}
        found = analyse(inputs=inputs, include=["scores", "logits", "theory"])
        score = found.theory.score_variance
        assert score.predicted == pytest.approx(d_k)
        squares.append(score.z)
        scaled.append(float(found.tensors["logits"].double().square().mean()))
    assert max(map(abs, squares)) <= 4
    assert 1e-4 < probability_below(sum(z**2 for z in squares), 12) < 1 - 1e-4
    error = torch.tensor(scaled).std() / math.sqrt(12)
    assert abs(sum(scaled) / 12 - 1) <= 6 * float(error)
