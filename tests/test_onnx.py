"""The service against the ONNX Attention operator, opsets 23 to 25.

Two oracles: onnx's reference implementation of the operator, and the function in its schema that
defines it by simpler operators; on onnx's own node tests and on a seeded sweep over all options. An
operator call becomes a request by these rules:

| ONNX | request |
| --- | --- |
| 3-D inputs with q_num_heads, kv_num_heads | split into (batch, head, length, dim) |
| past_key, past_value | concatenated before key and value |
| is_causal | causal upper_left |
| is_causal and past_key | causal upper_left, offset = past length |
| is_causal and nonpad_kv_seqlen | causal lower_right, key_lengths |
| nonpad_kv_seqlen | key_lengths |
| left_window_size, right_window_size (−1: unbounded) | window, offset as above |
| attn_mask, boolean or float | allowed or bias; rank 1 gets a query axis of extent 1 |
| qk_matmul_output, mode 0, 2, 3 | scores × scale, logits, weights |

Not asked for: `softmax_precision` (the service says which precision it uses), a value of another
dtype than the query (refused unless cast), and one stated deviation, which has its own test.
"""

import math
from dataclasses import dataclass, field
from unittest import mock

import numpy as np
import onnx
import pytest
import torch
from onnx.backend.test.case.node import attention as onnx_node_tests
from onnx.backend.test.case.node import function_testcase_helper
from onnx.reference import ReferenceEvaluator

from schemas.attention import AttentionRequest
from service.analysis import analyse
from service.attention.workers import Workers
from service.plan import plan
from service.runtime import Runtime
from tests.passes import each_pass  # noqa: F401 - a fixture of every test here

INPUTS = ("Q", "K", "V", "attn_mask", "past_key", "past_value", "nonpad_kv_seqlen")
OUTPUTS = ("Y", "present_key", "present_value", "qk_matmul_output")
RAW, CAPPED, BIASED, WEIGHTS = range(4)

BFLOAT16 = onnx.helper.tensor_dtype_to_np_dtype(onnx.TensorProto.BFLOAT16)
NUMPY = {
    "float16": np.dtype(np.float16),
    "bfloat16": BFLOAT16,
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
}
# Half precision: the reference rounds after every step, the service once, so they differ by a few
# roundings of the largest intermediate, a logit of about 8 (measured: 6.1 machine epsilons).
TOLERANCE = {
    "float16": {"rtol": 2**-10, "atol": 8 * 2**-10},
    "bfloat16": {"rtol": 2**-7, "atol": 8 * 2**-7},
    "float32": {"rtol": 1e-5, "atol": 2e-6},
    "float64": {"rtol": 1e-12, "atol": 1e-13},
}
# Onnx's own node tests have entries in [0, 1) (measured: 0.3 machine epsilons).
NODE_TOLERANCE = TOLERANCE | {
    "float16": {"rtol": 2**-10, "atol": 2**-10},
    "bfloat16": {"rtol": 2**-7, "atol": 2**-7},
}
ONE_ROUNDING = {
    "float16": {"rtol": 2**-11, "atol": 2e-6},
    "bfloat16": {"rtol": 2**-8, "atol": 2e-6},
}


@dataclass(frozen=True)
class Call:
    """One call of the operator."""

    opset: int
    inputs: dict[str, np.ndarray]
    attributes: dict[str, float] = field(default_factory=dict)

    @property
    def dtype(self):
        """The name of the dtype of the query."""
        return self.inputs["Q"].dtype.name

    @property
    def past_length(self):
        """How many keys the cache holds."""
        past = self.inputs.get("past_key")
        return 0 if past is None else past.shape[2]

    def reference(self, mode=WEIGHTS, **changed):
        """Y and qk_matmul_output of onnx's reference implementation."""
        given = self._with_query_axis()
        node = self._node(given, mode, **changed)
        return evaluate([node], given, [onnx.helper.make_opsetid("", self.opset)])

    def function_body(self, mode):
        """Y and qk_matmul_output of the function that the operator's schema is defined by."""
        node = self._node(self.inputs, mode)
        types = {value.name: value.type for value in value_infos(self.inputs)}
        in_place = [types.get(name, onnx.TypeProto()) for name in node.input]
        opset = [onnx.helper.make_opsetid("", self.opset)]
        expanded, _ = function_testcase_helper(node, in_place, "body", opset)
        nodes, opsets = expanded[0]
        # A row without a visible key is −∞ − −∞ inside the body's softmax; its guard comes after.
        with np.errstate(invalid="ignore"):
            return evaluate(nodes, self.inputs, opsets)

    def _node(self, given, mode, **changed):
        attributes = {**self.attributes, "qk_matmul_output_mode": mode, **changed}
        names = [name if name in given else "" for name in INPUTS]
        return onnx.helper.make_node("Attention", names, ["Y", "", "", "qk"], **attributes)

    def _with_query_axis(self):
        """The inputs, the query axis of the mask spelt out.

        With is_causal onnx 1.23's reference takes the number of queries from the mask, so it goes
        wrong on masks that broadcast over queries; its function body and its text do not.
        """
        if "attn_mask" not in self.inputs:
            return self.inputs
        mask, query_length = self.inputs["attn_mask"], self.inputs["Q"].shape[-2]
        mask = np.atleast_2d(mask)
        shape = (*mask.shape[:-2], query_length, mask.shape[-1])
        return {**self.inputs, "attn_mask": np.broadcast_to(mask, shape)}

    def in_float64(self):
        """The same call on the same numbers, computed in float64."""
        wide = {
            name: given.astype(np.float64) if given.dtype == self.inputs["Q"].dtype else given
            for name, given in self.inputs.items()
        }
        return Call(self.opset, wide, self.attributes)

    def request(self):
        """The same call as a request to the service."""
        given = {name: tensor(array) for name, array in self.inputs.items()}
        query = split(given["Q"], self.attributes.get("q_num_heads"))
        key = split(given["K"], self.attributes.get("kv_num_heads"))
        value = split(given["V"], self.attributes.get("kv_num_heads"))
        if "past_key" in given:
            key = torch.cat([given["past_key"], key], dim=2)
            value = torch.cat([given["past_value"], value], dim=2)
        return {
            "mechanism": {
                "scale": self.attributes.get("scale"),
                "softcap": self.attributes.get("softcap") or None,
            },
            "inputs": {"kind": "tensors", "query": query, "key": key, "value": value},
            "mask": self._mask(given, query.shape[2]),
            "include": ["output", "weights", "logits", "scores"],
        }

    def _mask(self, given, query_length):
        lengths = given.get("nonpad_kv_seqlen")
        causal = bool(self.attributes.get("is_causal"))
        left, right = (
            None if size < 0 else size
            for size in (self.attributes.get(f"{s}_window_size", -1) for s in ("left", "right"))
        )
        windowed = left is not None or right is not None
        mask = {"key_lengths": lengths}
        if windowed:
            mask["window"] = {"left": left, "right": right}
        if causal and lengths is not None:
            mask["causal"] = "lower_right"
        elif causal:
            mask["causal"] = "upper_left"
        if (causal or windowed) and self.past_length:
            mask["offset"] = torch.tensor(self.past_length)
        elif windowed and not causal and lengths is not None:
            mask["offset"] = lengths - query_length
        attn_mask = given.get("attn_mask")
        if attn_mask is not None:
            attn_mask = attn_mask[None] if attn_mask.dim() == 1 else attn_mask
            mask["allowed" if attn_mask.dtype == torch.bool else "bias"] = attn_mask
        return mask


def value_infos(arrays):
    """Names, dtypes and shapes, as a graph declares its inputs."""
    kinds = {name: onnx.helper.np_dtype_to_tensor_dtype(a.dtype) for name, a in arrays.items()}
    return [onnx.helper.make_tensor_value_info(n, kinds[n], a.shape) for n, a in arrays.items()]


def evaluate(nodes, given, opsets):
    """Y and qk of these nodes, in onnx's reference evaluator."""
    kind = onnx.helper.np_dtype_to_tensor_dtype(given["Q"].dtype)
    outputs = [onnx.helper.make_tensor_value_info(name, kind, None) for name in ("Y", "qk")]
    graph = onnx.helper.make_graph(nodes, "attention", value_infos(given), outputs)
    model = onnx.helper.make_model(graph, opset_imports=opsets)
    return [tensor(found) for found in ReferenceEvaluator(model).run(None, given)]


def tensor(array):
    """A torch tensor of the array's own dtype, bfloat16 too."""
    array = np.array(array)
    if array.dtype == BFLOAT16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def split(given, heads):
    """(batch, length, heads·dim) as (batch, heads, length, dim); rank 4 as it is."""
    if given.dim() == 4:
        return given
    return given.unflatten(-1, (heads, -1)).transpose(1, 2)


def joined(output, call):
    """The output in the layout of the call's query."""
    return output.transpose(1, 2).flatten(2) if call.inputs["Q"].ndim == 3 else output


@pytest.fixture
def runtime():
    """One worker on the CPU, by the pass that the test names."""
    workers, before = Workers(1), torch.get_num_threads()
    yield Runtime(torch.device("cpu"), workers)
    workers.close()
    torch.set_num_threads(before)


def answer(call, runtime):
    """What the service answers to the call."""
    return analyse(plan(AttentionRequest.model_validate(call.request())), runtime)


def assert_close(found, expected, tolerance):
    """Equal within the tolerance, in the same places infinite, nowhere NaN."""
    torch.testing.assert_close(found.double(), expected.double(), **tolerance)


def assert_agrees(call, found, tolerance):
    """Output and every mode of qk_matmul_output are those of onnx's reference."""
    tensors, scaled = found.tensors, found.tensors["scores"] * found.scale
    output, weights = call.reference(WEIGHTS)
    assert_close(joined(tensors["output"], call), output, tolerance)
    assert_close(tensors["weights"], weights, tolerance)
    assert_close(tensors["logits"], call.reference(BIASED)[1], tolerance)
    # Mode 0 is the product before the softcap; onnx 1.23's reference caps it (its function body
    # does not), so the cap is taken away from the reference's node.
    assert_close(scaled, call.reference(RAW, softcap=0.0)[1], tolerance)
    cap = call.attributes.get("softcap") or math.inf
    capped = scaled if cap == math.inf else cap * torch.tanh(scaled / cap)
    assert_close(capped, call.reference(CAPPED)[1], tolerance)
    assert found.numerics.fully_masked_rows == int((weights == 0).all(-1).sum())


# --- onnx's own node tests -----------------------------------------------------------------------


def node_tests():
    """Onnx's node tests of Attention: names, calls and the outputs that onnx expects."""
    recorded = []

    def record(node, inputs, outputs, name, opset_imports):
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        given = dict(zip([n for n in node.input if n], inputs, strict=True))
        by_place = dict(zip(node.input, INPUTS, strict=False))
        call = Call(
            opset_imports[0].version, {by_place[n]: a for n, a in given.items()}, attributes
        )
        present = [name for name, used in zip(OUTPUTS, node.output, strict=False) if used]
        expected = dict(zip(present, outputs, strict=True))
        recorded.append((name.removeprefix("test_attention_"), call, expected))

    suite = onnx_node_tests.Attention
    state = np.random.get_state()
    with mock.patch.object(onnx_node_tests, "expect", record):
        for export in sorted(n for n in dir(suite) if n.startswith("export")):
            np.random.seed(0)
            getattr(suite, export)()
    np.random.set_state(state)
    return recorded


NODE_TESTS = node_tests()


@pytest.mark.parametrize(
    ("call", "expected"),
    [pytest.param(call, expected, id=name) for name, call, expected in NODE_TESTS],
)
def test_onnx_node_test(call, expected, runtime):
    """The service gives the outputs that onnx's own node test of the operator expects."""
    found = answer(call, runtime)
    tolerance = NODE_TOLERANCE[call.dtype]
    assert_close(joined(found.tensors["output"], call), tensor(expected["Y"]), tolerance)
    if "qk_matmul_output" in expected:
        mode = call.attributes.get("qk_matmul_output_mode", RAW)
        scaled = found.tensors["scores"] * found.scale
        shown = {
            RAW: lambda: scaled,
            CAPPED: lambda: (
                call.attributes["softcap"] * torch.tanh(scaled / call.attributes["softcap"])
            ),
            BIASED: lambda: found.tensors["logits"],
            WEIGHTS: lambda: found.tensors["weights"],
        }[mode]()
        assert_close(shown, tensor(expected["qk_matmul_output"]), tolerance)


@pytest.mark.parametrize("call", [pytest.param(call, id=name) for name, call, _ in NODE_TESTS])
def test_onnx_node_test_in_every_mode(call, runtime):
    """On the inputs of onnx's node test all four modes of qk_matmul_output agree too."""
    assert_agrees(call, answer(call, runtime), NODE_TOLERANCE[call.dtype])


def test_onnx_node_tests_are_all_there():
    """Onnx 1.23 has 93 node tests of Attention; none is left out, and every opset has some."""
    assert len(NODE_TESTS) >= 93
    assert {call.opset for _, call, _ in NODE_TESTS} >= {23, 24, 25}


# --- a seeded sweep over what they combine -------------------------------------------------------

SWEEP = 160


@dataclass(frozen=True)
class Combination:
    """The options of one call of the sweep; the tensors follow from its index."""

    index: int
    opset: int
    dtype: str
    rank: int
    group: int
    cache: str
    causal: bool
    left: int
    right: int
    mask: str
    short_mask: bool
    mask_rank: int
    softcap: float
    scale: float | None
    queries: int
    keys: int

    @classmethod
    def drawn(cls, index):
        """The options of call `index`: dtype and opset in turn, the rest drawn."""
        rng = np.random.default_rng((2025, index))

        def one_of(*options):
            return options[rng.integers(len(options))]

        opset = (23, 24, 25)[index % 3]
        return cls(
            index=index,
            opset=opset,
            dtype=("float32", "float16", "bfloat16", "float64")[index // 3 % 4],
            rank=one_of(3, 4),
            group=one_of(1, 2, 3),
            cache=one_of("none", "past", *(["lengths"] if opset >= 24 else [])),
            causal=one_of(True, False),
            left=one_of(-1, 0, 2, 5) if opset >= 25 else -1,
            right=one_of(-1, 0, 1, 4) if opset >= 25 else -1,
            mask=one_of("none", "bool", "float", "float with -inf"),
            short_mask=opset >= 24 and one_of(False, True),
            mask_rank=one_of(1, 2, 3, 4),
            softcap=one_of(0.0, 0.0, 0.5, 3.0),
            # Squares: the reference takes the root in float32, whatever the dtype of the query.
            scale=one_of(None, None, 0.0, 0.25, 2.25),
            queries=one_of(1, 3, 7),
            keys=one_of(4, 7, 11),
        )

    def __str__(self):
        """What is switched on, joined by dashes."""
        parts = [f"{self.index:03}", f"opset{self.opset}", self.dtype, f"{self.rank}d"]
        parts += [f"group{self.group}", f"{self.queries}x{self.keys}"]
        parts += ["causal"] if self.causal else []
        parts += [self.cache] if self.cache != "none" else []
        if max(self.left, self.right) >= 0:
            parts += [f"window({self.left},{self.right})"]
        if self.mask != "none":
            short = "short-" if self.short_mask else ""
            parts += [f"{short}{self.mask}-rank{self.mask_rank}".replace(" ", "-")]
        parts += [f"softcap{self.softcap}"] if self.softcap else []
        parts += [f"scale{self.scale}"] if self.scale is not None else []
        return "-".join(parts)

    def call(self):
        """The call, its numbers drawn from the index."""
        rng = np.random.default_rng((7, self.index))
        batch, kv_heads, dim, value_dim = 2, 2, 8, 5
        heads, dtype = kv_heads * self.group, NUMPY[self.dtype]

        def normal(heads, length, dim, *, rank=4):
            drawn = rng.standard_normal((batch, heads, length, dim))
            if rank == 3:
                drawn = drawn.swapaxes(1, 2).reshape(batch, length, heads * dim)
            return drawn.astype(dtype)

        inputs = {
            "Q": normal(heads, self.queries, dim, rank=self.rank),
            "K": normal(kv_heads, self.keys, dim, rank=self.rank),
            "V": normal(kv_heads, self.keys, value_dim, rank=self.rank),
        }
        total = self.keys
        if self.cache == "past":
            past = int(rng.integers(1, 5))
            total += past
            inputs["past_key"] = normal(kv_heads, past, dim)
            inputs["past_value"] = normal(kv_heads, past, value_dim)
        if self.cache == "lengths":
            # Lengths below the number of queries give negative offsets, 0 masks a whole item.
            inputs["nonpad_kv_seqlen"] = rng.integers(0, total + 1, batch)
        if self.mask != "none":
            inputs["attn_mask"] = self._attn_mask(rng, (batch, heads, self.queries, total), dtype)
        return Call(self.opset, {n: inputs[n] for n in INPUTS if n in inputs}, self._attributes())

    def _attn_mask(self, rng, full, dtype):
        shape = [extent if rng.random() < 0.7 else 1 for extent in full[:-1]] + [full[-1]]
        shape = shape[-self.mask_rank :]
        if self.short_mask:
            shape[-1] -= int(rng.integers(1, 3))
        if self.mask == "bool":
            return rng.random(shape) < 0.7
        bias = rng.standard_normal(shape).astype(dtype)
        if self.mask == "float with -inf":
            bias[rng.random(shape) < 0.3] = -np.inf
        return bias

    def _attributes(self):
        given = {"is_causal": int(self.causal), "softcap": self.softcap}
        if self.rank == 3:
            given |= {"q_num_heads": 2 * self.group, "kv_num_heads": 2}
        if self.scale is not None:
            given["scale"] = self.scale
        if self.opset >= 25:
            given |= {"left_window_size": self.left, "right_window_size": self.right}
        return given


COMBINATIONS = [Combination.drawn(index) for index in range(SWEEP)]
HALVES = [c for c in COMBINATIONS if c.dtype in ONE_ROUNDING]


@pytest.mark.parametrize("combination", COMBINATIONS, ids=str)
def test_any_combination_of_options(combination, runtime):
    """Whatever options are combined, output and all four modes agree with onnx's reference."""
    call = combination.call()
    assert_agrees(call, answer(call, runtime), TOLERANCE[combination.dtype])


@pytest.mark.parametrize("combination", COMBINATIONS, ids=str)
def test_any_combination_in_the_function_body(combination, runtime):
    """A second oracle, the function in the operator's schema, agrees on output and logits too."""
    call = combination.call()
    found = answer(call, runtime)
    # The body computes its scale in float32, whatever the dtype of the query.
    kind = "float32" if combination.dtype == "float64" else combination.dtype
    output, logits = call.function_body(BIASED)
    assert_close(joined(found.tensors["output"], call), output, TOLERANCE[kind])
    assert_close(found.tensors["logits"], logits, TOLERANCE[kind])


@pytest.mark.parametrize("combination", HALVES, ids=str)
def test_half_precision_rounds_once(combination, runtime):
    """In half precision output and weights are the float64 reference's, rounded once."""
    call = combination.call()
    found = answer(call, runtime).tensors
    output, weights = call.in_float64().reference(WEIGHTS)
    assert_close(joined(found["output"], call), output, ONE_ROUNDING[combination.dtype])
    assert_close(found["weights"], weights, ONE_ROUNDING[combination.dtype])


def test_the_sweep_meets_every_option_and_every_empty_row(runtime):
    """Each option occurs often; rows without a visible key and negative offsets occur."""
    for option, least in {
        "opset": 50,
        "dtype": 36,
        "rank": 60,
        "group": 40,
        "cache": 30,
        "causal": 60,
        "left": 8,
        "right": 8,
        "mask": 25,
        "short_mask": 40,
        "mask_rank": 30,
        "softcap": 30,
        "scale": 20,
        "queries": 40,
        "keys": 40,
    }.items():
        values = [getattr(combination, option) for combination in COMBINATIONS]
        assert min(values.count(value) for value in set(values)) >= least, option
    empty = [
        answer(combination.call(), runtime).numerics.fully_masked_rows > 0
        for combination in COMBINATIONS
        if combination.cache == "lengths" or combination.mask == "bool"
    ]
    assert sum(empty) >= 20


# --- longer than a block of keys -----------------------------------------------------------------

LONG = {
    "causal": {"is_causal": 1},
    "causal-past": {"is_causal": 1, "past": 900},
    "causal-lengths": {"is_causal": 1, "lengths": [2100, 1024, 30]},
    "lengths": {"lengths": [2100, 1025, 0]},
    "window-past": {"left_window_size": 1500, "right_window_size": 3, "past": 900},
    "window-lengths": {"left_window_size": 40, "right_window_size": 0, "lengths": [2100, 1050, 9]},
    "left-window-causal": {"left_window_size": 1024, "is_causal": 1, "past": 2000},
    "right-window": {"right_window_size": 1000},
    "short-bool": {"mask": 1500, "boolean": True},
    "short-float": {"mask": 900, "boolean": False},
    "short-float-causal-lengths": {
        "mask": 2000,
        "boolean": False,
        "is_causal": 1,
        "lengths": [2000, 1500, 60],
    },
}


@pytest.mark.parametrize("options", LONG.values(), ids=LONG.keys())
def test_masks_across_blocks_of_keys(options, runtime):
    """With thousands of keys, taken block by block, every kind of mask still agrees."""
    rng = np.random.default_rng(11)
    options = dict(options)
    past, lengths = options.pop("past", 0), options.pop("lengths", None)
    short, boolean = options.pop("mask", None), options.pop("boolean", None)
    batch, queries, keys, dim = 3, 60, 2100 - past, 4

    def normal(*shape):
        return rng.standard_normal(shape, dtype=np.float32)

    inputs = {"Q": normal(batch, 2, queries, dim)}
    inputs |= {name: normal(batch, 1, keys, dim) for name in ("K", "V")}
    if short is not None:
        mask = normal(batch, 1, queries, short)
        inputs["attn_mask"] = mask > 0 if boolean else mask
    if past:
        inputs |= {name: normal(batch, 1, past, dim) for name in ("past_key", "past_value")}
    if lengths is not None:
        inputs["nonpad_kv_seqlen"] = np.array(lengths)
    call = Call(25, inputs, options)
    request = {**call.request(), "include": ["output"]}
    found = analyse(plan(AttentionRequest.model_validate(request)), runtime)
    output, weights = call.reference(WEIGHTS)
    assert_close(found.tensors["output"], output, TOLERANCE["float32"])
    assert found.numerics.fully_masked_rows == int((weights == 0).all(-1).sum())


# --- what the text of the operator says in words -------------------------------------------------


def plain_call(queries, keys, opset=25, **inputs):
    """A call on fixed numbers with one batch item and one head."""
    rng = np.random.default_rng(3)
    drawn = {
        name: rng.standard_normal((1, 1, length, 4), dtype=np.float32)
        for name, length in (("Q", queries), ("K", keys), ("V", keys))
    }
    return Call(opset, {**drawn, **inputs})


@pytest.mark.parametrize(("length", "empty"), [(8, 0), (5, 0), (4, 1), (2, 3), (0, 5)])
def test_a_negative_offset_empties_leading_rows(length, empty, runtime):
    """A cache shorter than the queries leaves the leading rows without a key: zeros, not NaN."""
    call = plain_call(5, 8, nonpad_kv_seqlen=np.array([length]))
    call.attributes["is_causal"] = 1
    found = answer(call, runtime)
    assert found.mask.offsets == (length - 5,)
    assert found.numerics.fully_masked_rows == empty
    assert (found.tensors["output"][0, 0, :empty] == 0).all()
    assert (found.tensors["weights"][0, 0, :empty] == 0).all()
    assert (found.tensors["output"][0, 0, empty:] != 0).all()
    assert_agrees(call, found, TOLERANCE["float32"])


@pytest.mark.parametrize("fill", [np.float32(0.5), np.bool_(True)], ids=["float", "bool"])
def test_a_mask_of_one_key_broadcasts_where_onnx_pads(fill, runtime):
    """The stated deviation: extent 1 serves all keys, while the operator forbids all but key 0."""
    call = plain_call(3, 5, attn_mask=np.full((3, 1), fill))
    found = answer(call, runtime)
    spread = plain_call(3, 5, attn_mask=np.full((3, 5), fill))
    assert_agrees(spread, found, TOLERANCE["float32"])
    assert (call.reference(WEIGHTS)[1][..., 1:] == 0).all()


def test_mode_one_is_the_logits_without_a_mask(runtime):
    """Where nothing is added or masked after the softcap, the logits are mode 1."""
    call = plain_call(3, 5)
    call.attributes["softcap"] = 0.75
    found = answer(call, runtime)
    assert_close(found.tensors["logits"], call.reference(CAPPED)[1], TOLERANCE["float32"])
