"""POST /v1/comparisons: variants beside the baseline."""

import json

import pytest
import torch
from safetensors.torch import load

from service.settings import Settings
from tests.builders import normal, same_bytes
from tests.files import EXAMPLE, file_of, response_of

pytestmark = pytest.mark.anyio
PATH, BINARY = "/v1/comparisons", "application/x-safetensors"
INPUTS = {
    "kind": "seeded",
    "seed": 3,
    "batch": 2,
    "heads": 4,
    "kv_heads": 2,
    "query_length": 6,
    "key_length": 9,
    "d_k": 16,
}
SDPA = "scaled_dot_product"
VARIANTS = [
    {"label": "baseline"},
    {"label": "unscaled", "mechanism": {"kind": SDPA, "scale": 1}},
    {"label": "temperature 2", "mechanism": {"kind": SDPA, "scale": 0.125}},
    {"label": "softcap", "mechanism": {"kind": SDPA, "softcap": 0.5}},
    {"label": "QK-norm", "mechanism": {"kind": SDPA, "qk_norm": "l2"}},
    {
        "label": "log length",
        "mechanism": {"kind": SDPA, "scale": {"kind": "log_length", "base": 4}},
    },
    {"label": "sparsemax", "mechanism": {"kind": SDPA, "normalizer": "sparsemax"}},
    {"label": "additive", "mechanism": {"kind": "additive"}},
    {"label": "dot", "mechanism": {"kind": "multiplicative"}},
]
MASK = {"causal": "lower_right"}
SHARE = {"saturated_share_max": 0.1}


async def compare(client, **body):
    answer = await client.post(PATH, json=body)
    assert answer.status_code == 200, answer.text[:500]
    return answer.json()


async def analyse(client, variant, **body):
    mechanism = {"mechanism": variant["mechanism"]} if "mechanism" in variant else {}
    include = ["output", "diagnostics", "row_diagnostics"]
    answer = await client.post("/v1/attention", json={**mechanism, **body, "include": include})
    assert answer.status_code == 200, answer.text[:500]
    return answer.json()


async def test_every_variant_is_the_analysis_of_its_own(client):
    """Mechanism, diagnostics, verdict and numerics are those of POST /v1/attention."""
    found = await compare(client, inputs=INPUTS, mask=MASK, variants=VARIANTS)
    assert [v["label"] for v in found["variants"]] == [v["label"] for v in VARIANTS]
    for variant, said in zip(VARIANTS, found["variants"], strict=True):
        own = await analyse(client, variant, inputs=INPUTS, mask=MASK)
        for name in ("mechanism", "diagnostics", "verdict", "numerics"):
            assert said[name] == own[name], variant["label"]
        assert (found["shape"], found["mask"]) == (own["shape"], own["mask"])


async def test_changes_are_against_the_first(client):
    """Differences of means, per head and pooled over rows, and the relative L2 of the outputs."""
    found = await compare(client, inputs=INPUTS, mask=MASK, variants=VARIANTS)
    baseline, *others = found["variants"]
    assert baseline["output_change"] == 0
    assert all(c["mean"] in (0, None) for c in baseline["change"].values())
    outputs = [
        torch.tensor((await analyse(client, v, inputs=INPUTS, mask=MASK))["output"]).double()
        for v in VARIANTS
    ]
    for said, output in zip(others, outputs[1:], strict=True):
        apart = output - outputs[0]
        assert said["output_change"] == pytest.approx(
            float(apart.norm() / outputs[0].norm()), rel=1e-5
        )
        heads = [float(apart[:, h].norm() / outputs[0][:, h].norm()) for h in range(4)]
        assert said["output_change_heads"] == pytest.approx(heads, rel=1e-5)
        check_changes(said, baseline)


def check_changes(said, baseline):
    """Every change is the difference of the aggregates that stand beside it."""
    shared = said["diagnostics"].keys() & baseline["diagnostics"].keys()
    assert said["change"].keys() == shared
    assert len(shared) > 10
    for name in shared:
        own, other = said["diagnostics"][name], baseline["diagnostics"][name]
        if None in (own["mean"][0][0], other["mean"][0][0]):
            assert said["change"][name]["mean"] is None
            continue
        means = [torch.tensor(d["mean"], dtype=torch.float64) for d in (own, other)]
        heads = torch.tensor(said["change"][name]["heads"], dtype=torch.float64)
        torch.testing.assert_close(heads, means[0] - means[1], rtol=1e-5, atol=1e-5)
        rows = [torch.tensor(d["rows"]).double() for d in (own, other)]
        pooled = [float((m * n).sum() / n.sum()) for m, n in zip(means, rows, strict=True)]
        assert said["change"][name]["mean"] == pytest.approx(
            pooled[0] - pooled[1], rel=1e-5, abs=1e-5
        )


async def test_saturated_shares_are_those_of_the_rows(client):
    """Per head, its rows pooled over the batch: max weight ≥ 0.9 among rows of two keys."""
    found = await compare(client, inputs=INPUTS, mask=MASK, variants=VARIANTS)
    for variant, said in zip(VARIANTS, found["variants"], strict=True):
        if variant["label"] == "sparsemax":
            assert said["saturated_share"] == [None] * 4
            continue
        own = await analyse(client, variant, inputs=INPUTS, mask=MASK)
        weights = torch.tensor(own["row_diagnostics"]["max_weight"])
        shares = (weights >= 0.9).double().mean((0, 2))
        assert said["saturated_share"] == pytest.approx(shares.tolist())


async def test_the_empty_request_compares_with_and_without_the_scale(client):
    """Everything has a default; without a target there is no recommendation."""
    found = await compare(client)
    assert [v["label"] for v in found["variants"]] == ["scaled", "unscaled"]
    assert [v["mechanism"]["scale"] for v in found["variants"]] == [0.125, 1.0]
    assert "recommendation" not in found
    assert found["variants"][1]["change"]["entropy"]["mean"] < -1


async def test_multi_head_variants_compare_their_own_outputs(client):
    """The projected output has no heads, so that only the whole change is told."""
    inputs = {"kind": "seeded", "query_length": 5, "model_dim": 24}
    kinds = [{"kind": "multi_head", "heads": 3}, {"kind": "multi_head", "heads": 3, "scale": 2}]
    variants = [{"label": str(n), "mechanism": kind} for n, kind in enumerate(kinds)]
    found = await compare(client, inputs=inputs, variants=variants)
    assert found["variants"][1]["output_change"] > 0
    assert found["variants"][1]["output_change_heads"] is None
    assert len(found["variants"][1]["saturated_share"]) == 3


@pytest.mark.parametrize("heads", [(2, 8), (8, 2), (1, 4)])
async def test_variants_may_have_different_heads(client, heads):
    """Pooled changes are told, those of single heads are not; each variant has its own shape."""
    inputs = {"kind": "seeded", "query_length": 5, "model_dim": 16}
    kinds = [{"kind": "multi_head", "heads": count} for count in heads]
    variants = [{"label": str(n), "mechanism": kind} for n, kind in enumerate(kinds)]
    found = (await compare(client, inputs=inputs, variants=variants))["variants"]
    assert [v["shape"]["heads"] for v in found] == list(heads)
    assert [len(v["saturated_share"]) for v in found] == list(heads)
    assert all(change["heads"] is None for change in found[1]["change"].values())
    assert found[1]["change"]["entropy"]["mean"] is not None
    assert found[0]["change"]["entropy"]["heads"] == [[0.0] * heads[0]]
    body = {"inputs": inputs, "variants": variants}
    answer = await client.post(PATH, json=body, headers={"accept": "image/png"})
    assert answer.status_code == 422
    assert "must have the same heads" in answer.json()["detail"]


async def test_a_dot_product_beside_multi_head_is_compared_by_its_one_head(client):
    """Tensors of rank 3 suit both; in the picture they would not stand beside one another."""
    inputs = {"kind": "tensors", "query": normal(1, 4, 8).tolist()}
    variants = [
        {"label": "a", "mechanism": {"kind": "multi_head", "heads": 4}},
        {"label": "b", "mechanism": {"kind": SDPA}},
    ]
    found = (await compare(client, inputs=inputs, variants=variants))["variants"]
    assert [v["shape"]["heads"] for v in found] == [4, 1]
    body = {"inputs": inputs, "variants": variants}
    answer = await client.post(PATH, json=body, headers={"accept": "image/svg+xml"})
    assert answer.status_code == 422


async def test_given_logits_compare_normalizers(client):
    """What comes after the logits can vary; scale and softcap cannot, and it is told whose."""
    inputs = {"kind": "logits", "logits": [[3, 1, 0.5], [0, 0, 9]], "value": [[1], [2], [4]]}
    variants = [
        {"label": "softmax"},
        {"label": "entmax", "mechanism": {"kind": SDPA, "normalizer": "entmax15"}},
    ]
    found = await compare(client, inputs=inputs, variants=variants)
    assert found["variants"][1]["output_change"] > 0
    wrong = [*variants, {"label": "hot", "mechanism": {"kind": SDPA, "scale": 2}}]
    answer = await client.post(PATH, json={"inputs": inputs, "variants": wrong})
    assert answer.status_code == 422
    assert "variant 2: " in answer.json()["detail"]


async def test_groups_of_a_file_are_compared_each(client):
    """A comparison for each layer of the real model, in order; stored results are ignored."""
    request = {"ignore_unknown": True, "variants": [{"label": "a"}, VARIANTS[1]]}
    answer = await client.post(
        PATH,
        content=EXAMPLE.read_bytes(),
        params={"request": json.dumps(request)},
        headers={"content-type": BINARY},
    )
    assert answer.status_code == 200, answer.text[:500]
    found = answer.json()
    assert [group["name"] for group in found["groups"]] == [f"layer{i}" for i in range(6)]
    assert found["groups"][0]["variants"][0]["saturated_share"][2] == 1
    assert "layer0.output" in found["omitted"]
    assert found["groups"][0]["shape"]["heads"] == 12


async def test_safetensors_gives_every_row_of_every_variant(client):
    """variants.<index>.output and .diagnostics.<name>, as POST /v1/attention gives them."""
    answer = await client.post(
        PATH,
        json={"inputs": INPUTS, "mask": MASK, "variants": VARIANTS, "target": SHARE},
        headers={"accept": BINARY},
    )
    assert answer.status_code == 200, answer.text[:500]
    found, said = load(answer.content), response_of(answer.content)
    assert [v["label"] for v in said["variants"]] == [v["label"] for v in VARIANTS]
    assert said["recommendation"]["figure"] == "saturated_share"
    for place, variant in enumerate(VARIANTS):
        mechanism = {"mechanism": variant["mechanism"]} if "mechanism" in variant else {}
        include = ["output", "diagnostics", "row_diagnostics"]
        body = {**mechanism, "inputs": INPUTS, "mask": MASK, "include": include}
        alone = await client.post("/v1/attention", json=body, headers={"accept": BINARY})
        own = load(alone.content)
        mine = {n: t for n, t in found.items() if n.startswith(f"variants.{place}.")}
        assert mine.keys() == {f"variants.{place}.{name}" for name in own}
        for name, tensor in own.items():
            assert same_bytes(found[f"variants.{place}.{name}"], tensor)


async def test_weights_of_a_file_go_to_the_variants_that_have_some(client):
    """parameters.<name> serve every variant whose mechanism is not a plain dot product."""
    named = {
        "query": normal(3, 4),
        "parameters.query_weight": normal(5, 4, seed=1),
        "parameters.key_weight": normal(5, 4, seed=2),
        "parameters.score_vector": normal(5, seed=3),
    }
    variants = [{"label": "dot"}, {"label": "additive", "mechanism": {"kind": "additive"}}]
    answer = await client.post(
        PATH,
        content=file_of(named, {"request": json.dumps({"variants": variants})}),
        headers={"content-type": BINARY},
    )
    assert answer.status_code == 200, answer.text[:500]
    found = answer.json()["variants"]
    assert found[1]["mechanism"]["parameters"]["kind"] == "given"
    assert "parameters" not in found[0]["mechanism"]


FAULTS = {
    "no variant": ({"variants": []}, "/variants", "at least 1"),
    "no label": ({"variants": [{"mechanism": {}}]}, "/variants/0/label", "required"),
    "labels": ({"variants": [{"label": "a"}, {"label": "a"}]}, "/variants", "0 and 1 have"),
    "seventeen": ({"variants": [{"label": str(n)} for n in range(17)]}, "/variants", "at most 16"),
    "kind": (
        {"variants": [{"label": "a", "mechanism": {"kind": "linear"}}]},
        "/variants/0/mechanism/kind",
        "one of scaled_dot_product, additive, multiplicative, multi_head",
    ),
    "option": (
        {"variants": [{"label": "a", "mechanism": {"temperature": 2}}]},
        "/variants/0/mechanism/temperature",
        "known are scale, softcap",
    ),
    "scale": (
        {"variants": [{"label": "a", "mechanism": {"scale": "2"}}]},
        "/variants/0/mechanism/scale",
        "found a string",
    ),
    "both targets": (
        {"target": {"saturated_share_max": 0.1, "normalized_entropy_min": 0.5}},
        "/target",
        "exactly one of",
    ),
    "no target": ({"target": {}}, "/target", "exactly one of"),
    "target of 1": ({"target": {"saturated_share_max": 1}}, "/target/saturated_share_max", "less"),
    "weights": (
        {"inputs": {"kind": "weights", "weights": [[1]]}},
        "/inputs/kind",
        "expected one of seeded, tensors, logits",
    ),
    "query": ({"query": [[1]]}, "/query", "Tensors go into inputs"),
    "input's field": ({"inputs": {"kind": "seeded", "sed": 1}}, "/inputs/sed", "known are kind"),
}  # fmt: skip


@pytest.mark.parametrize(("body", "pointer", "said"), FAULTS.values(), ids=FAULTS)
async def test_what_is_wrong_is_told(client, body, pointer, said):
    """With a pointer free of the names of union members."""
    answer = await client.post(PATH, json=body)
    assert answer.status_code == 422, answer.text
    fault = answer.json()["errors"][0]
    assert fault["pointer"] == pointer
    assert said in fault["detail"]


async def test_a_variant_that_does_not_fit_is_named(client):
    """By its number: labels are the caller's words, which no error repeats."""
    variants = [{"label": "a"}, {"label": "many heads", "mechanism": {"kind": "multi_head"}}]
    answer = await client.post(PATH, json={"inputs": INPUTS, "variants": variants})
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("variant 1: ")
    assert "many heads" not in answer.text


PLANNED = {
    "heads": ({"kind": "multi_head", "heads": 7}, "/variants/1/mechanism/heads"),
    "qk_norm": ({"kind": "additive", "qk_norm": "l2"}, "/variants/1/mechanism/qk_norm"),
    "weight": (
        {"kind": "multiplicative", "score": "general", "parameters": {"weight": [[1.0]]}},
        "/variants/1/mechanism/parameters/weight",
    ),
}


@pytest.mark.parametrize(("mechanism", "pointer"), PLANNED.values(), ids=PLANNED)
async def test_what_only_the_shapes_tell_points_into_the_variant(client, mechanism, pointer):
    """The pointer is one of this request, not of the analysis that the variant comes to."""
    undivided = mechanism["kind"] == "multi_head"
    inputs = {"kind": "seeded", "model_dim": 12} if undivided else INPUTS
    first = {"kind": "multi_head", "heads": 3} if undivided else {"kind": SDPA}
    variants = [{"label": "a", "mechanism": first}, {"label": "b", "mechanism": mechanism}]
    answer = await client.post(PATH, json={"inputs": inputs, "variants": variants})
    assert answer.status_code == 422, answer.text[:300]
    assert answer.json()["errors"][0]["pointer"] == pointer
    assert answer.json()["detail"].startswith("variant 1: ")


async def test_faults_of_inputs_and_mask_are_no_variants(client):
    """What all variants share is blamed on none of them."""
    body = {"inputs": INPUTS, "mask": {"key_lengths": [99, 1]}}
    answer = (await client.post(PATH, json=body)).json()
    assert answer["errors"][0]["pointer"] == "/mask/key_lengths"
    assert "variant" not in answer["detail"]
    content = file_of({"query": torch.tensor([[1.0, float("nan")]])})
    nan = (await client.post(PATH, content=content, headers={"content-type": BINARY})).json()
    assert nan["type"] == "/problems/non-finite"
    assert nan["errors"][0]["pointer"] == "/inputs/query"
    assert "variant" not in nan["detail"]


async def test_given_logits_have_variants_of_their_own_by_default(client):
    """Softmax and sparsemax: a scale could not be applied to them."""
    found = await compare(client, inputs={"kind": "logits", "logits": [[3, 1, 0.5]]})
    assert [v["label"] for v in found["variants"]] == ["softmax", "sparsemax"]


@pytest.mark.parametrize(
    ("settings", "limit"),
    [
        (Settings(max_flops=10**5), "ATTENTION_MAX_FLOPS"),
        (Settings(max_peak_bytes=2**22), "ATTENTION_MAX_PEAK_BYTES"),
        (Settings(max_answer_bytes=2**14), "ATTENTION_MAX_ANSWER_BYTES"),
        (Settings(max_elements=500), "ATTENTION_MAX_ELEMENTS"),
    ],
)
async def test_limits_hold_for_all_variants_together(client, settings, limit):
    """413, before anything is computed."""
    answer = await client.post(PATH, json={"inputs": INPUTS, "variants": VARIANTS})
    assert answer.status_code == 413
    assert answer.json()["limit"] == limit


async def test_a_search_counts_as_the_passes_it_takes(client):
    """What is admitted without a target may be too much with one."""
    inputs = {"kind": "seeded", "query_length": 16384, "d_k": 32}
    answer = await client.post(
        PATH, json={"inputs": inputs, "target": {"normalized_entropy_min": 0.9}}
    )
    assert answer.status_code == 413
    assert answer.json()["limit"] == "ATTENTION_MAX_FLOPS"
    assert answer.json()["needed"] > 100 * 16384**2 * 64
