"""JSON requests that can be read and make no sense: unions, extents, masks, includes, tensors."""

import math
from typing import Any

import torch

from tests.builders import normal
from tests.proof.originals import COMPARISONS, ESTIMATE, SOFTMAX, SWEEPS
from tests.proof.rows import CANARY, INVALID, LIMIT, MASK, NONFINITE, SHAPE, Row, packed, row

NAN, INFINITY = torch.tensor([[math.nan, 1.0]]), torch.tensor([[math.inf, 1.0]])


def tensors(**given: Any) -> dict[str, Any]:
    return {"inputs": {"kind": "tensors", **given}}


def query(given: Any) -> dict[str, Any]:
    return tensors(query=given)


def flat(shape: Any, data: Any, dtype: Any = "float32") -> dict[str, Any]:
    return query({"shape": shape, "dtype": dtype, "data": data})


def seeded(**given: Any) -> dict[str, Any]:
    return {"inputs": {"kind": "seeded", **given}}


def masked(**mask: Any) -> dict[str, Any]:
    """3 queries on 5 keys of two batch items."""
    return {**seeded(batch=2, query_length=3, key_length=5, d_k=2), "mask": mask}


def additive(**parameters: Any) -> dict[str, Any]:
    given = {"query_weight": [[1, 2]], "key_weight": [[1, 2]], "score_vector": [1], **parameters}
    return {"mechanism": {"kind": "additive", "parameters": given}, **query([[1, 2]])}


UNIONS = {
    "no such mechanism": ({"mechanism": {"kind": CANARY}}, INVALID),
    "a mechanism of number 3": ({"mechanism": {"kind": 3}}, INVALID),
    "an option of another mechanism": ({"mechanism": {"heads": 2}}, INVALID),
    "parameters of no kind": (
        {"mechanism": {"kind": "additive", "parameters": {"kind": ""}}}, INVALID),
    "no such inputs": ({"inputs": {"kind": CANARY}}, INVALID),
    "inputs without kind": ({"inputs": {"query": [[1]]}}, INVALID),
    "inputs of two kinds": ({"inputs": {"kind": "logits", "weights": [[1]]}}, INVALID),
    "a scale of no kind": ({"mechanism": {"scale": {"kind": CANARY, "base": 2}}}, INVALID),
    "a base of 1": ({"mechanism": {"scale": {"kind": "log_length", "base": 1}}}, INVALID),
    "no such score": ({"mechanism": {"kind": "multiplicative", "score": CANARY}}, INVALID),
    "no such normalizer": ({"mechanism": {"normalizer": CANARY}}, INVALID),
    "a softcap of 0": ({"mechanism": {"softcap": 0}}, INVALID),
    "weights of dot": (
        {"mechanism": {"kind": "multiplicative", "parameters": {"weight": [[1]]}}}, INVALID),
    "a norm without dot product": ({"mechanism": {"kind": "additive", "qk_norm": "l2"}}, INVALID),
    "a scale after scores": (
        {"inputs": {"kind": "logits", "logits": [[1]]}, "mechanism": {"scale": 2}}, INVALID),
    "a bias on weights": (
        {"inputs": {"kind": "weights", "weights": [[1]]}, "mask": {"bias": [[0]]}}, INVALID),
}  # fmt: skip
EXTENTS = {
    "an extent of 0": (seeded(batch=0), INVALID),
    "an extent of -1": (seeded(key_length=-1), INVALID),
    "an extent of 2.0": (seeded(query_length=2.0), INVALID),
    "an extent of true": (seeded(heads=True), INVALID),
    "a seed of 2**63": (seeded(seed=2**63), INVALID),
    "a negative std": (seeded(std=-1), INVALID),
    "heads that do not divide": (seeded(heads=4, kv_heads=3), SHAPE),
    "d_q of a dot product": (seeded(d_q=32), SHAPE),
    "a model's dimension of none": (seeded(model_dim=8), SHAPE),
    "self-attention on other keys": (seeded(self_attention=True, key_length=3), SHAPE),
    "heads that do not divide the model": (
        {"mechanism": {"kind": "multi_head", "heads": 3}, **seeded(model_dim=8)}, SHAPE),
    "rank 1": (query([1, 2]), SHAPE),
    "an empty axis": (query([[]]), SHAPE),
    "ranks that differ": (tensors(query=[[1]], key=[[[1]]]), SHAPE),
    "dimensions that differ": (tensors(query=[[1, 2]], key=[[1]]), SHAPE),
    "lengths that differ": (tensors(query=[[1]], key=[[1], [2]], value=[[1]]), SHAPE),
    "batches that differ": (tensors(query=[[[1]]], key=[[[1]], [[1]]]), SHAPE),
    "dtypes that differ": (
        tensors(query=packed(normal(1, 2)), key=packed(normal(1, 2).half())), "dtype-mismatch"),
    "a value of other length": (
        {"inputs": {"kind": "logits", "logits": [[1, 2]], "value": [[1]]}}, SHAPE),
    "a weight of other shape": (additive(query_weight=[[1, 2, 3]]), SHAPE),
    "a bias of other length": (additive(bias=[1, 2]), SHAPE),
    "a weight that is missing": (
        {"mechanism": {"kind": "additive", "parameters": {"kind": "given"}}}, INVALID),
}  # fmt: skip
TENSORS = {
    "ragged": (query([[1, 2], [3]]), INVALID),
    "ragged, deeper": (query([[[1], [2]], [[3], [4, 5]]]), INVALID),
    "lists beside numbers": (query([1, [2]]), INVALID),
    "5 axes": (query([[[[[1]]]]]), INVALID),
    "text": (query([[1, CANARY]]), INVALID),
    "booleans": (query([[True, False]]), INVALID),
    "null": (query([[1, None]]), INVALID),
    "objects": (query([[1, {"x": CANARY}]]), INVALID),
    "1e39 in float32": (query([[1e39, 1]]), INVALID),
    "70,000 in float16": (flat([1, 2], [70_000, 1], "float16"), INVALID),
    "a huge integer": (query([[10**300, 1]]), INVALID),
    "no shape": (query({"data": [1]}), INVALID),
    "no data": (query({"shape": [1, 1]}), INVALID),
    "a field too many": (query({"shape": [1, 1], "data": [1], "order": CANARY}), INVALID),
    "a shape of text": (flat(CANARY, [1]), INVALID),
    "a negative shape": (flat([-1, 2], []), INVALID),
    "a shape of fractions": (flat([1.5, 2], [1, 2, 3]), INVALID),
    "a shape of 5 axes": (flat([1] * 5, [1]), INVALID),
    "a vast shape of nothing": (flat([0, 2**62], []), INVALID),
    "elements too few": (flat([2, 2], [1, 2, 3]), INVALID),
    "elements too many": (flat([1, 1], [1, 2]), INVALID),
    "data in lists": (flat([2, 1], [[1], [2]]), INVALID),
    "no such dtype": (flat([1, 1], [1], CANARY), INVALID),
    "a dtype of another field": (flat([1, 1], [True], "bool"), INVALID),
    "an integer dtype": (flat([1, 1], [1], "int64"), INVALID),
    "base64 too short": (flat([1, 2], "AACAPw=="), INVALID),
    "base64 too long": (flat([1, 1], "AACAPwAAgD8="), INVALID),
    "base64 of stars": (flat([1, 1], "********"), INVALID),
    "base64 for URLs": (flat([1, 1], "--__--=="), INVALID),
    "base64 without padding": (flat([1, 1], "AACAPw"), INVALID),
    "base64 with a break": (flat([1, 2], "AACA\nPwAAgD8="), INVALID),
    "base64 with a tail": (flat([1, 1], "AACA===="), INVALID),
    "text for base64": (flat([1, 2], CANARY[:12]), INVALID),
    "NaN": (query(packed(NAN)), NONFINITE),
    "infinity": (tensors(query=[[1, 1]], key=packed(INFINITY)), NONFINITE),
    "-infinity": (tensors(query=[[1, 1]], value=packed(-INFINITY)), NONFINITE),
    "NaN among logits": ({"inputs": {"kind": "logits", "logits": packed(NAN)}}, NONFINITE),
    "NaN among weights": ({"inputs": {"kind": "weights", "weights": packed(NAN)}}, NONFINITE),
    "negative weights": ({"inputs": {"kind": "weights", "weights": [[-0.5, 1.5]]}}, INVALID),
    "NaN among parameters": (additive(score_vector=packed(NAN[0, :1])), NONFINITE),
}
MASKS = {
    "no such causal": (masked(causal=CANARY), INVALID),
    "an offset without causal": (masked(offset=1), MASK),
    "an offset for lower_right": (masked(causal="lower_right", offset=1), MASK),
    "an offset too few": (masked(causal="upper_left", offset=[1]), MASK),
    "an offset of a fraction": (masked(causal="upper_left", offset=1.5), INVALID),
    "an offset of 2**41": (masked(causal="upper_left", offset=2**41), MASK),
    "an offset of 2**63": (masked(causal="upper_left", offset=2**63), INVALID),
    "a negative window": (masked(window={"left": -1}), INVALID),
    "a window of 2**41": (masked(window={"right": 2**41}), INVALID),
    "more keys than there are": (masked(key_lengths=[6, 1]), MASK),
    "fewer than no keys": (masked(key_lengths=[-1, 1]), MASK),
    "key lengths too few": (masked(key_lengths=[1]), MASK),
    "one key length": (masked(key_lengths=3), MASK),
    "allowed of numbers": (masked(allowed=[[0, 1, 0, 1, 0]]), INVALID),
    "allowed of rank 1": (masked(allowed=[True] * 5), MASK),
    "allowed of 6 keys": (masked(allowed=[[True] * 6]), MASK),
    "allowed of 2 queries": (masked(allowed=[[True] * 5] * 2), MASK),
    "a boolean byte of 2": (
        masked(allowed={"shape": [1, 5], "dtype": "bool", "data": "AgICAgI="}), INVALID),
    "a bias of text": (masked(bias=[[CANARY] * 5]), INVALID),
    "a bias of NaN": (masked(bias=packed(NAN)), NONFINITE),
    "a bias of infinity": (masked(bias=packed(INFINITY)), NONFINITE),
    "forbid_below without a bias": (masked(forbid_below=-1), INVALID),
    "no such mask": (masked(padding=[1]), INVALID),
}  # fmt: skip
AROUND = {
    "labels too few": ({"labels": {"query": ["a"]}}, INVALID),
    "labels too many": ({"labels": {"key": ["a"] * 17}}, INVALID),
    "labels of numbers": ({"labels": {"key": [1] * 16}}, INVALID),
    "a label of 201 characters": ({"labels": {"key": [CANARY * 9] * 16}}, INVALID),
    "65,537 labels": ({"labels": {"key": ["a"] * 65_537}}, INVALID),
    "no such include": ({"include": [CANARY]}, INVALID),
    "an include of text": ({"include": CANARY}, INVALID),
    "an include without name": ({"include": [{}]}, INVALID),
    "33 includes": ({"include": ["output"] * 33}, INVALID),
    "a threshold of 1": ({"include": [{"name": "sparsity", "threshold": 1}]}, INVALID),
    "an option of another": ({"include": [{"name": "output", "threshold": 0.1}]}, INVALID),
    "a noise of 0": ({"include": [{"name": "perturbation", "relative_noise": 0}]}, INVALID),
    "no such device": ({"compute": {"device": CANARY}}, INVALID),
    "a device that is not here": ({"compute": {"device": "cuda:99"}}, "unavailable-device"),
    "no such compute dtype": ({"compute": {"dtype": "int8"}}, INVALID),
    "no such format": ({"tensor_format": CANARY}, INVALID),
    "fields of a tensor at the top": ({"query": [[1]]}, INVALID),
}
SOFTENED = {
    "no logits": ({}, INVALID),
    "NaN": ({"logits": packed(NAN)}, NONFINITE),
    "a scalar": ({"logits": {"shape": [], "data": [1]}}, SHAPE),
    "an empty axis": ({"logits": [[], []]}, SHAPE),
    "ragged": ({"logits": [[1], [1, 2]]}, INVALID),
    "a Jacobian of 257 keys": ({"logits": [0.0] * 257, "jacobian": True}, INVALID),
    "a Jacobian of 1": ({"logits": [1], "jacobian": 1}, INVALID),
}
SWEPT = {
    "no d_k": ({"d_k": []}, INVALID),
    "a d_k of 0": ({"d_k": [0]}, INVALID),
    "257 of d_k": ({"d_k": [1] * 257}, INVALID),
    "no such scale": ({"scale": [CANARY]}, INVALID),
    "a scale of 1e7": ({"scale": [1e7]}, INVALID),
    "65 repeats": ({"repeats": 65}, INVALID),
    "a seed that repeats run out of": ({"seed": 2**63 - 1}, INVALID),
    "an include of others": ({"include": ["output"]}, INVALID),
    "a grid of 512": ({"d_k": [1] * 256, "scale": ["1", 2]}, LIMIT),
    "a vast point": ({"d_k": [2**40], "key_length": [2**40]}, LIMIT),
}
COMPARED = {
    "no variant": ({"variants": []}, INVALID),
    "17 variants": ({"variants": [{"label": str(i)} for i in range(17)]}, INVALID),
    "a label twice": ({"variants": [{"label": CANARY}, {"label": CANARY}]}, INVALID),
    "no label": ({"variants": [{}]}, INVALID),
    "a label of 65 characters": ({"variants": [{"label": CANARY * 3}]}, INVALID),
    "a target of neither": ({"target": {}}, INVALID),
    "a target of both": (
        {"target": {"saturated_share_max": 0.1, "normalized_entropy_min": 0.5}}, INVALID),
    "a target of 1": ({"target": {"saturated_share_max": 1}}, INVALID),
    "given weights": ({"inputs": {"kind": "weights", "weights": [[1]]}}, INVALID),
    "a variant that does not fit": (
        {"variants": [{"label": CANARY, "mechanism": {"kind": "multi_head"}}],
         **seeded(heads=2)}, SHAPE),
    "a variant of no kind": (
        {"variants": [{"label": "a", "mechanism": {"kind": CANARY}}]}, INVALID),
}  # fmt: skip
ALSO = ["no such mechanism", "ragged", "heads that do not divide", "labels too few", "33 includes"]
ALL = UNIONS | EXTENTS | TENSORS | MASKS | AROUND
assert len(ALL) == sum(map(len, (UNIONS, EXTENTS, TENSORS, MASKS, AROUND)))
ROWS: list[Row] = [
    *(row(name, content, slug) for name, (content, slug) in ALL.items()),
    *(row(name, *ALL[name], path=ESTIMATE) for name in ALSO),
    *(row(name, *case, path=SOFTMAX) for name, case in SOFTENED.items()),
    *(row(name, *case, path=SWEEPS) for name, case in SWEPT.items()),
    *(row(name, *case, path=COMPARISONS) for name, case in COMPARED.items()),
]
