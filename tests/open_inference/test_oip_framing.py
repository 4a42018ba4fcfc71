"""The binary frame, whatever is in it: what goes in comes out, and what is changed does no harm."""

import json

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient.http import InferResult

from schemas.attention import AttentionRequest
from service.errors import ServiceError
from service.settings import Settings
from service.wire.calls import Call
from service.wire.open_inference_answer import encode
from service.wire.open_inference_call import Inference, decode
from service.wire.open_inference_models import MODELS
from service.wire.open_inference_options import RequestedOutput
from tests.builders import normal, same_bytes
from tests.files import raw
from tests.inference import LENGTH, inference, outputs_of

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
INTEGERS = [torch.int32, torch.int64]
EXTENTS = st.integers(1, 4)
MODEL = MODELS["scaled_dot_product"]


@st.composite
def requests(draw):
    """Tensors of an analysis, in any order, as JSON or bytes, at any offset."""
    rank, dtype = draw(st.integers(2, 4)), draw(st.sampled_from(DTYPES))
    batch = draw(EXTENTS) if rank > 2 else 1
    lead = {2: (), 3: (batch,), 4: (batch, draw(EXTENTS))}[rank]
    queries, keys, dim = draw(EXTENTS), draw(EXTENTS), draw(EXTENTS)
    tensors = {
        "query": normal(*lead, queries, dim, seed=1, dtype=dtype),
        "key": normal(*lead, keys, dim, seed=2, dtype=dtype),
        "value": normal(*lead, keys, draw(EXTENTS), seed=3, dtype=dtype),
        "mask_allowed": normal(queries, keys, seed=4) > 0,
        "mask_bias": normal(queries, keys, seed=5, dtype=draw(st.sampled_from(DTYPES))),
        "key_lengths": torch.full((batch,), keys, dtype=draw(st.sampled_from(INTEGERS))),
    }
    kept = draw(st.sets(st.sampled_from([n for n in tensors if n != "query"])))
    order = draw(st.permutations(["query", *sorted(kept)]))
    given_tensors = {name: tensors[name] for name in order}
    text = [n for n in order if tensors[n].dtype not in (torch.float16, torch.bfloat16)]
    as_text = draw(st.sets(st.sampled_from(text))) if text else set()
    return given_tensors, as_text, draw(st.integers(0, 70))


def found_in(request: AttentionRequest) -> dict[str, torch.Tensor]:
    """The tensors of a request by the protocol's names."""
    named = {n: getattr(request.inputs, n, None) for n in ("query", "key", "value")}
    mask = request.mask
    named |= {"mask_allowed": mask.allowed, "mask_bias": mask.bias, "key_lengths": mask.key_lengths}
    return {name: tensor for name, tensor in named.items() if tensor is not None}


@given(requests())
@settings(max_examples=150, deadline=None)
def test_tensors_come_out_as_they_went_in(request):
    """Every dtype, every order, JSON and bytes mixed, at every offset: the same bits."""
    tensors, as_text, padding = request
    body, headers = inference(tensors, as_text=as_text, padding=padding)
    length = headers.get(LENGTH)
    taken = decode(bytearray(body), None if length is None else int(length), MODEL, Settings())
    found = found_in(taken.call.options)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        expected = tensor.long() if name == "key_lengths" else tensor
        assert same_bytes(found[name], expected)


def test_aligned_bytes_are_not_copied():
    """A tensor whose bytes lie on its boundary is a view into the body."""
    query = normal(3, 8)
    text = inference({"query": query})[1][LENGTH]
    padding = -int(text) % 64
    body, headers = inference({"query": query}, padding=padding)
    buffer = bytearray(body)
    taken = decode(buffer, int(headers[LENGTH]), MODEL, Settings())
    buffer[-4:] = raw(torch.tensor([42.0]))
    assert taken.call.options.inputs.query[2, 7] == 42


@st.composite
def answers(draw):
    """Outputs of any name and dtype, as JSON or bytes."""
    names = draw(st.lists(st.sampled_from(list(MODEL.outputs)), min_size=1, unique=True))
    found, outputs = {}, []
    for seed, name in enumerate(names):
        shape = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
        dtype = draw(st.sampled_from(DTYPES))
        binary = draw(st.booleans()) or dtype in (torch.float16, torch.bfloat16)
        found[name] = normal(*shape, seed=seed, dtype=dtype)
        outputs.append(RequestedOutput(name, binary))
    return found, tuple(outputs), draw(st.one_of(st.none(), st.text(min_size=1)))


@given(answers())
@settings(max_examples=150, deadline=None)
def test_answers_are_read_by_the_client(answer):
    """What is written is what Triton's own reader finds, and what is in it by definition."""
    tensors, outputs, identity = answer
    call = Call(((None, AttentionRequest()),))
    identity = None if identity is None else identity.encode("utf-8", "replace").decode()
    written = encode(Inference(call, MODEL, identity, outputs, None, {}), tensors)
    content, length = bytes(written.content), written.header_length
    assert (length is None) is not any(output.binary for output in outputs)
    assert length is None or length % 64 == 0
    headers = {} if length is None else {LENGTH: str(length)}
    for name, tensor in outputs_of(content, headers).items():
        assert same_bytes(tensor, tensors[name])
    read = InferResult.from_response_body(content, header_length=headers.get(LENGTH))
    assert read.get_response().get("id") == identity
    for name, tensor in tensors.items():
        numbers = read.as_numpy(name)
        assert list(numbers.shape) == list(tensor.shape)
        assert numbers.astype("float64").tolist() == tensor.double().tolist()


WHOLE = inference(
    {"query": normal(2, 3), "key_lengths": torch.tensor([2])}, as_text=["key_lengths"]
)


@given(
    st.integers(0, len(WHOLE[0]) - 1),
    st.binary(min_size=0, max_size=3),
    st.integers(0, 3),
    st.one_of(st.none(), st.integers(0, len(WHOLE[0]) + 5)),
)
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_changed_body_is_read_or_refused(place, bytes_put, dropped, length):
    """No change of bytes, nor of the length in the header, is more than one of our errors."""
    body, headers = WHOLE
    changed = bytearray(body[:place] + bytes_put + body[place + dropped :])
    told = int(headers[LENGTH]) if length is None else length
    refused = None
    try:
        taken = decode(changed, told, MODEL, Settings())
    except ServiceError as error:
        refused = error.detail
    assert refused or (json.loads(changed[:told]) and taken.outputs)
