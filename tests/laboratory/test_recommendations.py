"""The recommendation: mildest settings that reach the target when they are posted back."""

import json
import math

import pytest
import torch
from safetensors.torch import load

from tests.builders import normal
from tests.files import EXAMPLE, file_of

pytestmark = pytest.mark.anyio
PATH, BINARY = "/v1/comparisons", "application/x-safetensors"
SATURATED = {
    "kind": "seeded", "batch": 2, "heads": 4, "kv_heads": 2, "query_length": 24, "d_k": 48,
}  # fmt: skip
UNSCALED = {"kind": "scaled_dot_product", "scale": 1.0}
SHARE, ENTROPY = {"saturated_share_max": 0.1}, {"normalized_entropy_min": 0.6}
CASES = {
    "share": (UNSCALED, {}, SHARE),
    "entropy": (UNSCALED, {}, ENTROPY),
    "causal": (UNSCALED, {"causal": "upper_left"}, SHARE),
    "padded": (UNSCALED, {"key_lengths": [24, 3]}, ENTROPY),
    "softcapped already": ({**UNSCALED, "softcap": 30.0}, {}, SHARE),
    "negative scale": ({**UNSCALED, "scale": -1.0}, {}, SHARE),
    "log length": (
        {**UNSCALED, "scale": {"kind": "log_length", "base": 1.3}},
        {"causal": "upper_left"},
        ENTROPY,
    ),
    "additive": ({"kind": "additive", "scale": 30.0}, {}, SHARE),
    "softmax_one": ({**UNSCALED, "normalizer": "softmax_one"}, {}, ENTROPY),
    "sparsemax": ({**UNSCALED, "normalizer": "sparsemax"}, {}, ENTROPY),
}


async def recommended(client, mechanism, target, *, inputs=SATURATED, mask=None):
    body = {
        "inputs": inputs,
        "mask": mask or {},
        "variants": [{"label": "baseline", "mechanism": mechanism}],
        "target": target,
    }
    answer = await client.post(PATH, json=body)
    assert answer.status_code == 200, answer.text[:500]
    return answer.json()["recommendation"]


async def measured(client, mechanism, target, *, inputs=SATURATED, mask=None):
    """The target's figure of each head, by POST /v1/attention and arithmetic of our own."""
    body = {"mechanism": mechanism, "inputs": inputs, "mask": mask or {}}
    include = ["output", "row_diagnostics"]
    answer = await client.post("/v1/attention", json={**body, "include": include})
    assert answer.status_code == 200, answer.text[:500]
    rows = {
        name: torch.tensor(
            [[[math.nan if v is None else v for v in head] for head in item] for item in figure],
            dtype=torch.float64,
        )
        for name, figure in answer.json()["row_diagnostics"].items()
        if name in ("max_weight", "normalized_entropy")
    }
    return figure_of(rows, target), torch.tensor(answer.json()["output"]).double()


def figure_of(rows, target):
    """Per head, pooled over the batch, among rows that see two keys."""
    counted = torch.isfinite(rows["normalized_entropy"])
    if target is SHARE:
        saturated = (rows["max_weight"] >= 0.9) & counted
        return (saturated.sum((0, 2)) / counted.sum((0, 2)).double()).tolist()
    return rows["normalized_entropy"].nanmean((0, 2)).tolist()


def reaches(figures, target):
    """Whether every head does."""
    if target is SHARE:
        return max(figures) <= SHARE["saturated_share_max"]
    return min(figures) >= ENTROPY["normalized_entropy_min"]


@pytest.mark.parametrize(("mechanism", "mask", "target"), CASES.values(), ids=CASES)
async def test_settings_reach_the_target_when_posted_back(client, mechanism, mask, target):
    """Temperature and softcap: reached with them, missed a little milder, told as measured."""
    found = await recommended(client, mechanism, target, mask=mask)
    before, output = await measured(client, mechanism, target, mask=mask)
    assert found["baseline"] == pytest.approx(before, rel=1e-5)
    assert found["baseline_reaches"] is reaches(before, target) is False
    for name, milder in (("temperature", 0.99), ("softcap", 1.01)):
        remedy = found[name]
        assert remedy["reachable"] is True, remedy
        after, moved = await measured(client, remedy["mechanism"], target, mask=mask)
        assert reaches(after, target), name
        assert remedy["measured"] == pytest.approx(after, rel=1e-5)
        change = float((moved - output).norm() / output.norm())
        assert remedy["output_change"] == pytest.approx(change, rel=1e-4)
        own = [head["value"] for head in remedy["heads"] if head["value"] is not None]
        assert remedy["value"] == (max(own) if name == "temperature" else min(own))
        weaker = with_value(mechanism, name, remedy["value"] * milder)
        missed, _ = await measured(client, weaker, target, mask=mask)
        assert not reaches(missed, target), name


def with_value(mechanism, name, value):
    """The mechanism under a temperature or softcap, worked out here."""
    if name == "softcap":
        return {**mechanism, "softcap": value}
    scale = mechanism["scale"]
    if isinstance(scale, dict):
        return {**mechanism, "scale": {**scale, "base": scale["base"] ** value}}
    return {**mechanism, "scale": scale / value}


@pytest.mark.parametrize("target", [SHARE, ENTROPY], ids=["share", "entropy"])
async def test_clipped_queries_reach_the_target_when_posted_back(client, target):
    """γ on each head's queries: reached, and a little less of it is not."""
    query, key, value = (normal(2, h, 24, 48, seed=h + i) for i, h in enumerate((4, 2, 2)))
    tensors = {"query": query, "key": key, "value": value}
    inputs = {"kind": "tensors", **{name: t.tolist() for name, t in tensors.items()}}
    clip = (await recommended(client, UNSCALED, target, inputs=inputs))["qk_clip"]
    assert clip["reachable"] is True
    scores = (query @ key.repeat_interleave(2, 1).transpose(-2, -1)).amax((0, 2, 3)).tolist()
    assert [head["s_max"] for head in clip["heads"]] == pytest.approx(scores, rel=1e-5)
    for head in clip["heads"]:
        assert head["gamma"] == pytest.approx(min(1, head["tau"] / head["s_max"]))
        assert head["published_gamma"] == min(1, 100 / head["s_max"])
    for less, expected in ((1.0, True), (1.01, False)):
        gamma = torch.tensor([min(1.0, h["gamma"] * less) for h in clip["heads"]])
        clipped = {**inputs, "query": (query * gamma.view(1, 4, 1, 1)).tolist()}
        after, output = await measured(client, UNSCALED, target, inputs=clipped)
        assert reaches(after, target) is expected
        if expected:
            _, before = await measured(client, UNSCALED, target, inputs=inputs)
            assert [h["measured"] for h in clip["heads"]] == pytest.approx(after, abs=1e-6)
            change = float((output - before).norm() / before.norm())
            assert clip["output_change"] == pytest.approx(change, rel=1e-4)


async def test_each_head_has_its_own_mildest_value(client):
    """A head alone, posted by itself, needs just what is said of it among the others."""
    query, key = normal(1, 3, 20, 32), normal(1, 3, 20, 32, seed=1)
    query *= torch.tensor([0.1, 1.0, 3.0]).view(1, 3, 1, 1)
    together = await heads_of(client, query, key)
    assert together[0]["value"] is None
    assert together[0]["reachable"] is True
    assert 1 < together[1]["value"] < together[2]["value"]
    for head in (1, 2):
        (alone,) = await heads_of(client, query[:, head : head + 1], key[:, head : head + 1])
        # Another grid lies under it, so that only the digits that count agree.
        assert alone["value"] == pytest.approx(together[head]["value"], rel=1e-3)


async def heads_of(client, query, key):
    inputs = {"kind": "tensors", "query": query.tolist(), "key": key.tolist()}
    return (await recommended(client, UNSCALED, SHARE, inputs=inputs))["temperature"]["heads"]


async def test_what_needs_nothing_is_left_alone(client):
    """Reached already: no value, no change, and the published τ suffices."""
    found = await recommended(client, {"kind": "scaled_dot_product"}, SHARE)
    assert found["baseline_reaches"] is True
    for name in ("temperature", "softcap"):
        assert (found[name]["reachable"], found[name]["value"]) == (True, None)
        assert found[name]["output_change"] == 0
        assert all(h["value"] is None and h["output_change"] == 0 for h in found[name]["heads"])
    assert found["qk_clip"]["published_reached"] is True
    assert all(head["gamma"] == 1 and head["tau"] is None for head in found["qk_clip"]["heads"])


async def test_what_a_bias_decides_cannot_be_reached(client):
    """No temperature touches a bias: told for each head, with what the hottest comes to."""
    bias = torch.zeros(24)
    bias[5] = 40.0
    found = await recommended(
        client, {"kind": "scaled_dot_product"}, SHARE, mask={"bias": [bias.tolist()]}
    )
    for name in ("temperature", "softcap"):
        remedy = found[name]
        assert (remedy["reachable"], remedy["value"], remedy["mechanism"]) == (False, None, None)
        assert remedy["reason"].endswith("for heads 0, 1, 2, 3; it does not touch the bias")
        for head in remedy["heads"]:
            assert head["reachable"] is False
            assert "gives saturated_share 1; it does not touch the bias" in head["reason"]
    clip = found["qk_clip"]
    assert clip["reachable"] is False
    assert "does not touch the bias" in clip["reason"]
    assert all(head["gamma"] is None and head["reason"] for head in clip["heads"])
    # S_max is of the scores: the bias is no part of it.
    assert all(head["s_max"] < 20 for head in clip["heads"])


async def test_some_heads_may_be_reachable_where_others_are_not(client):
    """A bias on one head only: the others have their values, and no one value serves all."""
    bias = torch.zeros(1, 4, 1, 24)
    bias[0, 2, 0, 5] = 40.0
    mask = {"bias": bias.tolist()}
    found = (await recommended(client, UNSCALED, SHARE, mask=mask))["temperature"]
    assert found["reachable"] is False
    assert "head 2" in found["reason"]
    assert [head["reachable"] for head in found["heads"]] == [True, True, False, True]
    assert all(head["value"] > 1 for head in found["heads"] if head["reachable"])


NO_CLIP = {
    "additive": ({"kind": "additive", "scale": 30.0}, "products of query and key"),
    "qk_norm": ({"kind": "scaled_dot_product", "qk_norm": "l2", "scale": 40.0}, "qk_norm"),
}


@pytest.mark.parametrize(("mechanism", "reason"), NO_CLIP.values(), ids=NO_CLIP)
async def test_clipping_is_for_products_of_unnormalised_operands(client, mechanism, reason):
    """Elsewhere it would do nothing, and that is what is said."""
    found = await recommended(client, mechanism, SHARE)
    assert (found["qk_clip"]["reachable"], found["qk_clip"]["heads"]) == (False, [])
    assert reason in found["qk_clip"]["reason"]
    assert found["temperature"]["reachable"] is True


async def test_scores_below_0_cannot_be_clipped(client):
    """S_max ≤ 0: no threshold binds, though a temperature helps."""
    inputs = {"kind": "tensors", "query": [[-9.0], [-8.0]], "key": [[1.0], [3.0], [5.0]]}
    inputs["value"] = [[1.0], [2.0], [3.0]]
    found = await recommended(client, UNSCALED, SHARE, inputs=inputs)
    assert found["temperature"]["reachable"] is True
    (head,) = found["qk_clip"]["heads"]
    assert (head["reachable"], head["s_max"]) == (False, -8.0)
    assert "above 0" in head["reason"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"inputs": {"kind": "logits", "logits": [[9, 1]]}}, "after scale and softcap"),
        (
            {"mechanism": {"kind": "scaled_dot_product", "normalizer": "sigmoid"}},
            "the baseline's normalizer is sigmoid",
        ),
    ],
)
async def test_where_nothing_can_be_recommended_it_says_why(client, body, reason):
    """The comparison stands; the recommendation is null with a reason."""
    mechanism = body.pop("mechanism", {"kind": "scaled_dot_product"})
    variants = [{"label": "a", "mechanism": mechanism}]
    answer = await client.post(PATH, json={**body, "variants": variants, "target": SHARE})
    assert answer.status_code == 200, answer.text[:500]
    assert answer.json()["recommendation"] is None
    assert reason in answer.json()["reason"]


async def test_rows_of_one_key_have_nothing_to_reach(client):
    """A head without a row of two keys is left alone: its figure is null."""
    inputs = {"kind": "seeded", "query_length": 3, "key_length": 1}
    found = await recommended(client, UNSCALED, SHARE, inputs=inputs)
    assert (found["baseline_reaches"], found["baseline"]) == (True, [None])


async def test_multi_head_is_mended_too(client):
    """Scale and softcap are options of every head; the output is compared after projection."""
    inputs = {"kind": "seeded", "query_length": 24, "model_dim": 96}
    mechanism = {"kind": "multi_head", "heads": 3, "scale": 2.0}
    found = await recommended(client, mechanism, SHARE, inputs=inputs)
    assert found["temperature"]["reachable"] is True
    after, _ = await measured(client, found["temperature"]["mechanism"], SHARE, inputs=inputs)
    assert reaches(after, SHARE)
    assert len(found["qk_clip"]["heads"]) == 3


async def test_clipping_multi_head_is_told_after_the_projection(client):
    """γ on the rows of the query's projection: reached, and the output moves as it is said."""
    shapes = {"query": 24, "key": 24, "value": 24, "output": 20}
    weights = {
        f"parameters.{name}_weight": normal(extent, 20 if name != "output" else 24, seed=n)
        for n, (name, extent) in enumerate(shapes.items())
    }
    weights["parameters.output_weight"][:, 8:] *= 0.01
    file = {"query": normal(15, 20, seed=9), **weights}
    mechanism = {"kind": "multi_head", "heads": 3}
    request = {"variants": [{"label": "a", "mechanism": mechanism}], "target": SHARE}
    found = await posted(client, PATH, file, request)
    clip = found["recommendation"]["qk_clip"]
    assert clip["reachable"] is True
    gamma = torch.tensor([head["gamma"] for head in clip["heads"]]).repeat_interleave(8)
    name = "parameters.query_weight"
    include = {"mechanism": mechanism, "include": ["output", "row_diagnostics"]}
    before = await posted(client, "/v1/attention", file, include)
    after = await posted(
        client, "/v1/attention", {**file, name: file[name] * gamma.unsqueeze(-1)}, include
    )
    outputs = [torch.tensor(answer["output"]).double() for answer in (before, after)]
    change = float((outputs[1] - outputs[0]).norm() / outputs[0].norm())
    assert clip["output_change"] == pytest.approx(change, rel=1e-4)
    share = (torch.tensor(after["row_diagnostics"]["max_weight"]) >= 0.9).double().mean((0, 2))
    assert float(share.max()) <= 0.1
    # Given weights are not repeated: they are posted beside the mechanism again.
    hot = {**include, "mechanism": found["recommendation"]["temperature"]["mechanism"]}
    assert "parameters" not in hot["mechanism"]
    assert (await posted(client, "/v1/attention", file, hot))["output"] != before["output"]


async def posted(client, path, tensors, request):
    """The answer to a file with the rest of the request in its metadata."""
    content = file_of(tensors, {"request": json.dumps(request)})
    answer = await client.post(path, content=content, headers={"content-type": BINARY})
    assert answer.status_code == 200, answer.text[:500]
    return answer.json()


async def test_a_softcap_at_its_lower_bound_is_the_strongest(client):
    """Nothing is tried, and nothing recommended, that a request could not have."""
    mechanism = {**UNSCALED, "softcap": 1e-6}
    inputs = {"kind": "seeded", "query_length": 4, "key_length": 3}
    bias = [[0.0, 9.0, 0.0]]
    found = await recommended(client, mechanism, SHARE, inputs=inputs, mask={"bias": bias})
    assert found["softcap"]["reachable"] is False
    assert "a softcap down to 1e-06" in found["softcap"]["reason"].replace(
        "no softcap", "a softcap"
    )


async def test_a_log_length_beyond_its_largest_base_says_so(client):
    """The value is verified, but no mechanism of that kind has it."""
    mechanism = {**UNSCALED, "scale": {"kind": "log_length", "base": 1e3}}
    inputs = {"kind": "seeded", "query_length": 12, "std": 4.0, "heads": 2}
    remedy = (await recommended(client, mechanism, SHARE, inputs=inputs))["temperature"]
    assert (remedy["reachable"], remedy["mechanism"]) == (True, None)
    assert "base above 1e+09" in remedy["reason"]
    assert max(remedy["measured"]) <= 0.1


EXTREME_KEYS = {
    "next to nothing": [1e-322, -1000.0, -100000.0],
    "next to infinity": [1e307, -1e307, 0.0],
    "far apart": [1e-300, 1e300, 0.0],
}


@pytest.mark.parametrize("target", [SHARE, {"normalized_entropy_min": 1e-300}])
@pytest.mark.parametrize("keys", EXTREME_KEYS.values(), ids=EXTREME_KEYS)
async def test_scores_of_any_size_end_with_a_finite_answer(client, keys, target):
    """Whatever is reached or not, no value is infinite, and a reason does not contradict itself."""
    key = {"shape": [3, 1], "dtype": "float64", "data": keys}
    query = {"shape": [1, 1], "dtype": "float64", "data": [1.0]}
    inputs = {"kind": "tensors", "query": query, "key": key}
    found = await recommended(client, UNSCALED, target, inputs=inputs)
    text = json.dumps(found, allow_nan=False)
    assert " inf" not in text
    for name in ("temperature", "softcap"):
        assert found[name]["reachable"] or "gives saturated_share 0;" not in text


async def test_thousands_of_heads_take_no_longer_than_their_figures(client):
    """Every head has its entry, in time that grows with them and not with their square."""
    inputs = {"kind": "seeded", "heads": 3000, "query_length": 1, "key_length": 2, "d_k": 1}
    mechanism = {**UNSCALED, "scale": 9.0}
    found = await recommended(client, mechanism, SHARE, inputs=inputs)
    assert [len(found[n]["heads"]) for n in ("temperature", "softcap", "qk_clip")] == [3000] * 3
    assert found["temperature"]["reachable"] is True


@pytest.mark.parametrize("scale", [1e27, 1e36])
async def test_overflowing_rows_are_not_called_mended(client, scale):
    """They are in no figure; what to do about them is said instead."""
    inputs = {"kind": "seeded", "query_length": 4, "std": 1e6, "heads": 2}
    variants = [{"label": "a", "mechanism": {"scale": scale}}]
    body = {"inputs": inputs, "variants": variants, "target": SHARE}
    answer = await client.post(PATH, json=body)
    assert answer.status_code == 200, answer.text[:500]
    assert answer.json()["recommendation"] is None
    assert "logits of heads 0, 1 overflow" in answer.json()["reason"]
    json.loads(answer.text, parse_constant=pytest.fail)


async def test_the_real_models_saturated_head_is_mended(client):
    """Layer 0 of MiniLM: head 2 alone needs something, and QK-clip at 100 does nothing for it."""
    theirs = load(EXAMPLE.read_bytes())
    layer = {n: theirs[f"layer0.{n}"] for n in ("query", "key", "value")}
    layer["key_lengths"] = theirs["key_lengths"]
    answer = await client.post(
        PATH,
        content=file_of(layer),
        params={"request": json.dumps({"variants": [{"label": "as trained"}], "target": SHARE})},
        headers={"content-type": BINARY},
    )
    found = answer.json()["recommendation"]
    assert found["baseline"][2] == 1
    assert [h["head"] for h in found["temperature"]["heads"] if h["value"]] == [2]
    clip = found["qk_clip"]
    assert clip["published_reached"] is False
    assert clip["heads"][2]["s_max"] == pytest.approx(39.1288, rel=1e-4)
    layer["query"] = layer["query"].clone()
    layer["query"][:, 2] *= clip["heads"][2]["gamma"]
    posted = await client.post(
        "/v1/attention",
        content=file_of(layer, {"request": '{"include":["diagnostics","row_diagnostics"]}'}),
        headers={"content-type": BINARY},
    )
    after = torch.tensor(posted.json()["row_diagnostics"]["max_weight"])[:, 2]
    assert float((after >= 0.9).double().mean()) <= 0.1
    # The other heads are as they were: the mildest remedy costs the output least.
    assert clip["output_change"] < found["softcap"]["output_change"]
    assert clip["output_change"] < found["temperature"]["output_change"]
