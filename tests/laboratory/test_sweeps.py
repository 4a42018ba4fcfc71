"""POST /v1/sweeps: points, repeats, predictions and encodings."""

import asyncio
import csv
import io
import json
import math

import pytest
from safetensors.torch import load

from schemas.sweeps import SweepRequest
from service.app import create_app
from service.diagnostics import DIAGNOSTICS
from service.errors import LimitExceeded
from service.laboratory.sweeps import prepare_sweep
from service.limits import check
from service.settings import Settings
from tests.files import response_of

pytestmark = pytest.mark.anyio
PATH = "/v1/sweeps"
SMALL = {"d_k": [3, 16], "key_length": [5, 40], "query_length": 7, "repeats": 3}
NDJSON, CSV, BINARY = "application/x-ndjson", "text/csv", "application/x-safetensors"
SOFTMAX = {
    name
    for name, d in DIAGNOSTICS.items()
    if d.aggregated and d.needs != "hidden" and not d.trivial_for_softmax
}


async def sweep(client, body, accept="application/json"):
    answer = await client.post(PATH, json=body, headers={"accept": accept})
    assert answer.status_code == 200, answer.text[:500]
    return answer


async def rows_of(client, **body):
    return (await sweep(client, body)).json()["rows"]


def without_seeds(row):
    return {name: value for name, value in row.items() if name != "seeds"}


@pytest.fixture(scope="module")
def anyio_backend():
    return "asyncio"


async def test_the_default_is_the_classic_table(client):
    """26 points, d_k in powers of two to 4096 × two scales, 128 keys, 64 queries, 8 repeats."""
    answer = (await sweep(client, {})).json()
    assert answer["total"] == len(answer["rows"]) == 26
    assert [row["d_k"] for row in answer["rows"][::2]] == [2**power for power in range(13)]
    assert {row["scale"] for row in answer["rows"]} == {"1/sqrt(d_k)", "1"}
    assert {row["key_length"] for row in answer["rows"]} == {128}
    assert (answer["query_length"], answer["repeats"]) == (64, 8)
    assert all(row["seeds"] == list(range(8)) for row in answer["rows"])
    for row in answer["rows"]:
        usual = row["scale"] == "1/sqrt(d_k)"
        assert row["scale_value"] == (row["d_k"] ** -0.5 if usual else 1.0)
        assert row["measured"].keys() >= SOFTMAX
        for name, predicted in row["predicted"].items():
            measured = row["measured"][name]
            z = (measured["mean"] - predicted["value"]) / measured["standard_error"]
            # Student's t with 7 degrees of freedom: |t| > 7 has probability 2e-4.
            assert abs(z) <= 7, (row["d_k"], row["scale"], name)
    tell_apart(answer["rows"])


def tell_apart(rows):
    """Trace, entropy and max weight order the cases; the Jacobian's norm does not."""
    at = {(row["d_k"], row["scale"]): row["measured"] for row in rows}
    for d_k in (16, 64):
        usual, bare = at[d_k, "1/sqrt(d_k)"], at[d_k, "1"]
        mean = {
            n: (usual[n]["mean"], bare[n]["mean"]) for n in usual if usual[n]["mean"] is not None
        }
        assert mean["jacobian_frobenius"][0] < mean["jacobian_frobenius"][1]
        for name in ("jacobian_trace", "entropy", "normalized_entropy"):
            assert mean[name][0] > 1.5 * mean[name][1], name
        assert mean["max_weight"][0] < 0.2 < mean["max_weight"][1]
    bare = [at[2**power, "1"] for power in range(13)]
    for name, falls in (("jacobian_trace", True), ("entropy", True), ("max_weight", False)):
        means = [measured[name]["mean"] for measured in bare]
        assert means == sorted(means, reverse=falls), name
    norms = [measured["jacobian_frobenius"]["mean"] for measured in bare]
    assert norms != sorted(norms)
    assert norms != sorted(norms, reverse=True)


@pytest.mark.parametrize("include", [[], ["gradients", "sparsity", "perturbation", "flip_margin"]])
async def test_a_point_is_the_analysis_with_its_seed(client, include):
    """Every figure of one repeat is that of POST /v1/attention, to the digits it is written in."""
    seed, d_k, keys, scale = 11, 24, 9, 0.7
    body = {"d_k": [d_k], "scale": [scale], "key_length": [keys], "query_length": 5, "repeats": 1}
    (row,) = await rows_of(client, **body, seed=seed, include=include)
    items = [
        {"name": n, "seed": seed} if n in ("gradients", "perturbation") else n for n in include
    ]
    posted = {
        "mechanism": {"kind": "scaled_dot_product", "scale": scale},
        "inputs": {
            "kind": "seeded",
            "seed": seed,
            "query_length": 5,
            "key_length": keys,
            "d_k": d_k,
        },
        "include": ["diagnostics", *items],
    }
    whole = (await client.post("/v1/attention", json=posted)).json()
    measured = {name: figure["mean"] for name, figure in row["measured"].items()}
    assert all(figure["standard_error"] is None for figure in row["measured"].values())
    for name, figure in whole["diagnostics"].items():
        assert measured.pop(name) == pytest.approx(figure["mean"][0][0], rel=3e-7, abs=1e-12), name
    assert measured.pop("saturated_share") == whole["verdict"]["shares"]["saturated"]
    assert measured.pop("participation") == pytest.approx(
        1 - row["measured"]["jacobian_trace"]["mean"]
    )
    for name in ("query", "key", "value") if include else ():
        found = measured.pop(f"gradient_{name}_rms")
        assert found == pytest.approx(whole["gradients"][name][0][0], rel=3e-7)
    if include:
        vanished = whole["gradients"]["vanished_rows"]["query"][0][0]
        assert measured.pop("gradient_vanished_rows") == pytest.approx(vanished, rel=3e-7)
    assert measured == {}


async def test_repeats_are_the_next_seeds(client):
    """Mean and standard error over repeats are those of the single seeds."""
    body = {"d_k": [16], "scale": ["1"], "key_length": [10], "query_length": 6}
    (together,) = await rows_of(client, **body, repeats=4, seed=5)
    single = [(await rows_of(client, **body, repeats=1, seed=5 + r))[0] for r in range(4)]
    assert together["seeds"] == [5, 6, 7, 8]
    for name, figure in together["measured"].items():
        values = [row["measured"][name]["mean"] for row in single]
        mean = sum(values) / 4
        spread = math.sqrt(sum((v - mean) ** 2 for v in values) / 3)
        assert figure["mean"] == pytest.approx(mean, rel=1e-12, abs=1e-15), name
        assert figure["standard_error"] == pytest.approx(spread / 2, rel=1e-9, abs=1e-12), name


async def test_a_point_does_not_depend_on_its_neighbours(client):
    """Alone, in another order and among others: the same numbers, to the last digit."""
    whole = await rows_of(client, **SMALL)
    assert [(r["key_length"], r["d_k"], r["scale"]) for r in whole] == [
        (n, d, s) for n in (5, 40) for d in (3, 16) for s in ("1/sqrt(d_k)", "1")
    ]
    (alone,) = await rows_of(client, **{**SMALL, "d_k": [16], "key_length": [40], "scale": ["1"]})
    turned = await rows_of(client, **{**SMALL, "d_k": [16, 3], "scale": ["1", "1/sqrt(d_k)"]})
    assert alone == whole[-1]
    assert sorted(turned, key=str) == sorted(whole, key=str)


async def test_scales_share_their_draws(client):
    """The scores are the same under every scale."""
    rows = await rows_of(client, **{**SMALL, "scale": ["1/sqrt(d_k)", "1", "1/d_k", -0.5]})
    for start in range(0, len(rows), 4):
        variances = [r["measured"]["score_variance"]["mean"] for r in rows[start : start + 4]]
        assert variances == pytest.approx([variances[0]] * 4, rel=1e-6)
    assert [r["scale_value"] for r in rows[4:8]] == [0.25, 1.0, 1 / 16, -0.5]
    assert rows[3]["scale"] == -0.5


async def test_large_points_are_shared_among_threads_and_stay_the_same(client, monkeypatch):
    """Which thread takes a repeat shows in no digit."""
    body = {
        "d_k": [2048],
        "scale": ["1"],
        "query_length": 16,
        "repeats": 4,
        "include": ["gradients"],
    }
    shared = await rows_of(client, **body)
    monkeypatch.setattr("service.laboratory.sweeps._SHARED_ELEMENTS", 10**12)
    assert await rows_of(client, **body) == shared


async def test_ndjson_is_the_same_rows_with_progress(client):
    """A line for each row in order, counted; together they are the JSON answer's rows."""
    answer = await sweep(client, SMALL, NDJSON)
    assert answer.headers["content-type"] == NDJSON
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [line["done"] for line in lines] == list(range(1, 9))
    assert {line["total"] for line in lines} == {8}
    assert [line["row"] for line in lines] == await rows_of(client, **SMALL)


async def test_csv_has_a_column_for_every_figure(client):
    """The columns of the contract; what JSON says is null is empty."""
    text = (await sweep(client, {**SMALL, "key_length": [1, 40]}, CSV)).text
    table = list(csv.DictReader(io.StringIO(text)))
    rows = await rows_of(client, **{**SMALL, "key_length": [1, 40]})
    header = list(table[0])
    assert header[:7] == [
        "d_k", "scale", "scale_value", "key_length",
        "visible_keys_mean", "visible_keys_standard_error", "visible_keys_predicted",
    ]  # fmt: skip
    assert len(header) == 4 + 3 * len(rows[0]["measured"])
    for line, row in zip(table, rows, strict=True):
        assert (line["d_k"], line["scale"]) == (str(row["d_k"]), row["scale"])
        for name, figure in row["measured"].items():
            predicted = row["predicted"].get(name, {"value": None})["value"]
            for kind, value in (*figure.items(), ("predicted", predicted)):
                cell = line[f"{name}_{kind}"]
                assert (float(cell) if cell else None) == value, (name, kind)


async def test_safetensors_has_a_tensor_for_every_column(client):
    """The same figures as JSON to the last bit, NaN for null; the rest is in the metadata."""
    body = {**SMALL, "key_length": [1, 40]}
    answer = await sweep(client, body, BINARY)
    columns, rows = load(answer.content), await rows_of(client, **body)
    assert columns["d_k"].tolist() == [row["d_k"] for row in rows]
    assert columns["key_length"].tolist() == [row["key_length"] for row in rows]
    for name in rows[0]["measured"]:
        for kind in ("mean", "standard_error"):
            found = [None if math.isnan(v) else v for v in columns[f"{name}.{kind}"].tolist()]
            assert found == [row["measured"][name][kind] for row in rows]
    assert math.isnan(columns["normalized_entropy.predicted"][0])
    assert columns["entropy.predicted"][-1] == rows[-1]["predicted"]["entropy"]["value"]
    assert response_of(answer.content)["rows"] == rows


async def test_one_key_leaves_no_spread(client):
    """N = 1: entropy 0 and predicted 0; what takes two keys is null in both."""
    rows = await rows_of(client, d_k=[8], key_length=[1], repeats=2, query_length=3)
    for row in rows:
        assert row["measured"]["entropy"] == {"mean": 0.0, "standard_error": 0.0}
        assert row["predicted"]["entropy"]["value"] == 0.0
        assert row["predicted"]["score_variance"]["value"] == 0.0
        assert row["measured"]["normalized_entropy"] == {"mean": None, "standard_error": None}
        assert row["predicted"]["normalized_entropy"]["value"] is None
        assert row["measured"]["saturated_share"]["mean"] is None


async def test_beyond_its_range_a_formula_says_nothing(client):
    """σ > 1e4: the entropy is null and not valid, the variance stands; the source always does."""
    (row,) = await rows_of(client, d_k=[64], scale=[1e5], repeats=2, query_length=4, include=[])
    for name in ("entropy", "normalized_entropy", "participation", "jacobian_trace"):
        assert (row["predicted"][name]["value"], row["predicted"][name]["valid"]) == (None, False)
    assert row["predicted"]["logit_variance"]["valid"] is True
    assert all(predicted["source"] for predicted in row["predicted"].values())


@pytest.mark.parametrize("scale", [1e-300, 1e-320, 5e-324, -1e-310])
async def test_a_scale_next_to_nothing_is_predicted_as_none(client, scale):
    """Subnormal σ: rows are uniform, and the prediction says so."""
    (row,) = await rows_of(client, d_k=[4], scale=[scale], repeats=2, query_length=4)
    assert row["predicted"]["entropy"]["value"] == pytest.approx(math.log(128), rel=1e-6)
    assert row["measured"]["entropy"]["mean"] == pytest.approx(math.log(128), rel=1e-6)
    body = {"mechanism": {"scale": scale}, "inputs": {"kind": "seeded", "query_length": 64}}
    answer = await client.post("/v1/attention", json={**body, "include": ["theory"]})
    assert answer.status_code == 200
    assert answer.json()["theory"]["entropy"]["predicted"] == pytest.approx(math.log(64), rel=1e-6)


async def test_asymptotes_are_labelled_and_no_prediction(client):
    """They say for what they hold, and are far off where n is 128."""
    (row,) = await rows_of(client, d_k=[9], scale=["1"], repeats=2, include=[])
    asymptote, predicted = row["asymptote"]["entropy"], row["predicted"]["entropy"]
    assert "n -> infinity" in asymptote["source"]
    assert asymptote["value"] == pytest.approx(math.log(128) - 9 / 2, rel=1e-9)
    assert predicted["value"] - asymptote["value"] > 1
    assert set(row["asymptote"]) <= set(row["measured"])


FAULTS = {
    "empty": ({"d_k": []}, "/d_k", "at least 1"),
    "zero": ({"d_k": [0]}, "/d_k/0", "greater than or equal to 1"),
    "fraction": ({"d_k": [1.5]}, "/d_k/0", "integer"),
    "scale": ({"scale": ["sqrt(d_k)"]}, "/scale/0", "'1/sqrt(d_k)', '1/d_k' or '1'"),
    "scale's kind": ({"scale": [None]}, "/scale/0", "found null"),
    "large scale": ({"scale": [1e7]}, "/scale/0", "less than or equal to 1000000"),
    "repeats": ({"repeats": 65}, "/repeats", "less than or equal to 64"),
    "include": ({"include": ["weights"]}, "/include/0", "'gradients'"),
    "unknown": ({"dk": [1]}, "/dk", "known are d_k, scale"),
    "seed": ({"seed": 2**63 - 1}, "/seed", "less than"),
}


@pytest.mark.parametrize(("body", "pointer", "said"), FAULTS.values(), ids=FAULTS)
async def test_what_is_wrong_is_told(client, body, pointer, said):
    """With a pointer to it, without the caller's values."""
    answer = await client.post(PATH, json=body)
    assert answer.status_code == 422
    fault = answer.json()["errors"][0]
    assert fault["pointer"] == pointer
    assert said in fault["detail"]


@pytest.mark.parametrize("accept", ["application/json", NDJSON, CSV, "image/png"])
@pytest.mark.parametrize(
    ("body", "limit"),
    [
        ({"d_k": list(range(1, 257))}, "ATTENTION_MAX_SWEEP_POINTS"),
        ({"d_k": [2**40]}, "ATTENTION_MAX_ELEMENTS"),
        ({"key_length": [2**40], "d_k": [1]}, "ATTENTION_MAX_ELEMENTS"),
        ({"query_length": 2**14, "key_length": [2**14]}, "ATTENTION_MAX_FLOPS"),
    ],
)
async def test_limits_hold_before_anything_is_drawn(client, body, limit, accept):
    """413 in every encoding, also where rows would be streamed."""
    answer = await client.post(PATH, json=body, headers={"accept": accept})
    assert answer.status_code == 413
    assert answer.json()["limit"] == limit


async def test_a_point_that_is_too_large_is_named(client):
    """Which one of the grid, and what of it."""
    answer = await client.post(PATH, json={"d_k": [4, 2**22], "query_length": 32})
    assert answer.status_code == 413
    assert "d_k 4194304, key_length 128: query, in elements" in answer.json()["detail"]


async def test_hardly_any_work_counts_too(client):
    """16,384 analyses of one key each take long though they multiply little."""
    body = {"d_k": list(range(1, 257)), "scale": ["1"], "key_length": [2], "query_length": 1}
    allowed = await client.post(PATH, json={**body, "d_k": [1], "repeats": 64, "include": []})
    assert allowed.status_code == 200
    settings = Settings(max_flops=10**12)
    sweep = prepare_sweep(SweepRequest(**body, repeats=64), threads=1)
    with pytest.raises(LimitExceeded, match="floating-point operations"):
        check(sweep.needs, settings)


async def test_a_safetensors_body_is_not_for_sweeps(client):
    """A sweep draws its own tensors."""
    headers = {"content-type": "application/x-safetensors"}
    answer = await client.post(PATH, content=b"", headers=headers)
    assert answer.status_code == 415
    assert "application/json" in answer.json()["detail"]


@pytest.mark.parametrize("settings", [Settings(deadline_s=0.5)])
async def test_a_deadline_amid_the_rows_is_told_in_a_line(client, settings):
    """The rows that were done stand; the last line is the problem, whatever the status was."""
    body = {"d_k": [64] * 100, "repeats": 16}
    lines = (await sweep(client, body, NDJSON)).text.splitlines()
    last = json.loads(lines[-1])
    assert last["problem"]["type"] == "/problems/deadline-exceeded"
    assert last["problem"]["status"] == 504
    assert 0 < last["done"] == len(lines) - 1 < 200
    table = await client.post(PATH, json=body)
    assert table.status_code == 504


@pytest.mark.parametrize("settings", [Settings(max_queue=1)])
async def test_a_sweep_holds_one_place_and_leaves_the_device_between_its_points(client, settings):
    """While rows stream nothing else gets a place of a queue of one; afterwards it does."""
    body = {"d_k": [64] * 60}
    running = asyncio.create_task(client.post(PATH, json=body))
    await asyncio.sleep(0.3)
    refused = await client.post("/v1/attention", json={})
    assert refused.status_code == 429
    assert (await running).status_code == 200
    assert (await client.post("/v1/attention", json={})).status_code == 200


async def test_a_caller_that_reads_nothing_is_given_up(monkeypatch):
    """A send that blocks is ended with the deadline: place and memory are free again."""
    app = create_app(Settings(deadline_s=0.5, max_queue=1))
    engine = app.state.shared.engine
    body = json.dumps({"d_k": [4] * 8, "repeats": 2, "include": []}).encode()
    sent = asyncio.Queue()
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive():
        if messages:
            return messages.pop()
        return await asyncio.Event().wait()

    async def send(message):
        await sent.put(message)
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    headers = [(b"accept", NDJSON.encode()), (b"content-length", str(len(body)).encode())]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
        "path": PATH, "raw_path": PATH.encode(), "query_string": b"", "root_path": "",
        "scheme": "http", "headers": headers, "client": ("x", 1), "server": ("x", 80),
    }  # fmt: skip
    async with app.router.lifespan_context(app):
        serving = asyncio.create_task(app(scope, receive, send))
        assert (await sent.get())["status"] == 200
        assert (engine.admission.waiting, engine.admission.bytes_in_flight > 0) == (1, True)
        await asyncio.wait_for(serving, 5)
        assert (engine.admission.waiting, engine.admission.bytes_in_flight) == (0, 0)


async def test_an_analysis_is_answered_amid_a_sweep(client):
    """Between two points the device is free for others."""
    running = asyncio.create_task(client.post(PATH, json={"d_k": [64] * 100}))
    await asyncio.sleep(0.2)
    answer = await client.post("/v1/attention", json={})
    assert answer.status_code == 200
    assert not running.done()
    assert (await running).status_code == 200
