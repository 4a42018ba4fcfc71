"""What the models have done, counted as Triton counts."""

import time

import pytest

from service.engine.model_statistics import Clock, InferenceStatistics, Spent
from service.wire.open_inference_models import MODELS
from tests.inference import infer_path
from tests.triton_protobuf import parsed

pytestmark = pytest.mark.anyio
PHASES = ("queue", "compute_input", "compute_infer", "compute_output")
SEEDED = {"parameters": {"seed": 0, "query_length": 4}}


async def statistics(client, path="/v2/models/stats"):
    answer = await client.get(path)
    assert answer.status_code == 200
    parsed("ModelStatisticsResponse", answer.json())
    return {model["name"]: model for model in answer.json()["model_stats"]}


async def test_all_models_are_counted_from_nothing(client):
    """`stats` is no model: it lists all of them, each with zeros."""
    found = await statistics(client)
    assert list(found) == list(MODELS)
    for model in found.values():
        assert model["version"] == "1"
        assert model["batch_stats"] == []
        assert model["last_inference"] == model["inference_count"] == model["execution_count"] == 0
        assert {t["count"] for t in model["inference_stats"].values()} == {0}


async def test_successes_and_failures_are_counted(client):
    """By model, with the time of each phase; a failure is whatever has no answer."""
    began = time.time_ns() // 1_000_000
    for _ in range(3):
        assert (await client.post(infer_path("additive"), json=SEEDED)).status_code == 200
    for bad in (b"{", b"{}", b'{"parameters":{"seed":-1}}'):
        assert (await client.post(infer_path("additive"), content=bad)).is_client_error
    await client.post(infer_path("additive", "2"), json=SEEDED)
    await client.post(infer_path("multi_head", "1"), json=SEEDED)
    found = await statistics(client)
    additive = found["additive"]
    assert (additive["inference_count"], additive["execution_count"]) == (3, 3)
    assert began <= additive["last_inference"] <= time.time_ns() // 1_000_000
    stats = additive["inference_stats"]
    assert (stats["success"]["count"], stats["fail"]["count"]) == (3, 3)
    assert stats["fail"]["ns"] > 0
    assert all(stats[phase]["count"] == 3 for phase in PHASES)
    assert all(stats[phase]["ns"] > 0 for phase in PHASES)
    assert sum(stats[phase]["ns"] for phase in PHASES) <= stats["success"]["ns"]
    assert found["multi_head"]["inference_count"] == 1
    assert found["scaled_dot_product"]["inference_count"] == 0
    (batch,) = additive["batch_stats"]
    assert batch["batch_size"] == 1
    assert batch["compute_infer"] == stats["compute_infer"]


@pytest.mark.parametrize("version", ["", "/versions/1"])
async def test_one_model_is_told_alone(client, version):
    """By its path, with its version or without."""
    await client.post(infer_path("multiplicative"), json=SEEDED)
    found = await statistics(client, f"/v2/models/multiplicative{version}/stats")
    assert list(found) == ["multiplicative"]
    assert found == {"multiplicative": (await statistics(client))["multiplicative"]}


def test_what_is_computed_together_is_one_execution():
    """Each of a batch is an inference; its computation took the time of one."""
    counters = InferenceStatistics().of("additive")
    spent = Spent(total=100, queue=10, compute_input=20, compute_infer=30, compute_output=5)
    for size in (1, 4, 4, 4, 4, 3, 3):
        counters.succeeded(spent, batch_size=size)
    assert counters.success.count == 7
    assert counters.executions == 1 + 1 + 1  # one of the three has no answer yet


def test_the_clock_counts_phases_apart():
    """What passes outside of any phase is in none, but in the whole."""
    clock = Clock()
    time.sleep(0.002)
    clock.lap()
    clock.lap("compute_input")
    time.sleep(0.002)
    clock.lap("compute_output")
    clock._phases |= {"queue": 1, "compute_infer": 2}
    spent = clock.spent()
    assert spent.compute_input < 2_000_000 <= spent.compute_output
    assert spent.total >= 4_000_000
