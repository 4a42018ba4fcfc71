"""The models are made from the code's tables: nothing is forgotten, nothing is made up."""

import dataclasses
from typing import get_args

import pytest

from schemas.attention import AttentionRequest, Compute
from schemas.inputs import SeededInputs
from schemas.masks import Mask, Window
from schemas.mechanisms import mechanism_models, parameter_models, weight_names
from schemas.open_inference import InferRequest
from service.diagnostics import DIAGNOSTICS
from service.diagnostics.included import INCLUDED
from service.extents import REPLACED
from service.mechanisms import MECHANISMS
from service.plan import plan
from service.wire import open_inference_models
from service.wire.open_inference_models import MODELS
from service.wire.torch_names import TORCH_NAMES
from tests.inference import MODEL, asked, inference
from tests.triton_protobuf import parsed

pytestmark = pytest.mark.anyio
MATRICES = {"output", "weights", "logits", "scores"}


def test_every_mechanism_is_a_model():
    """A new mechanism is served without another word."""
    assert list(MODELS) == list(MECHANISMS)


def test_every_diagnostic_is_an_output():
    """Each of them per row, with the part of `include` that computes it; matrices beside them."""
    for name, model in MODELS.items():
        hidden = {d.name for d in DIAGNOSTICS.values() if d.needs == "hidden"}
        if name in ("additive", "multiplicative"):
            hidden = set()
        assert set(model.outputs) == MATRICES | {*DIAGNOSTICS, *INCLUDED} - hidden
        for figure in INCLUDED.values():
            assert figure.include in model.outputs[figure.name].include


@pytest.mark.parametrize("name", MODELS)
async def test_every_output_can_be_asked_for_alone(client, name):
    """Each comes, of the rank that the metadata says; NaN where softmax does not define it."""
    model = MODELS[name]
    parameters = {"seed": 1, "query_length": 6}
    if "score" in model.parameters:
        parameters["score"] = "concat"
    others = {n for n, d in DIAGNOSTICS.items() if "softmax" not in (d.normalizers or {"softmax"})}
    if name in ("additive", "multiplicative"):
        others.add("flip_margin")
    for output in model.outputs.values():
        body, headers = inference({}, outputs=[output.name], parameters=parameters)
        (tensor,) = (await asked(client, name, body, headers)).values()
        assert tensor.dim() == output.rank, output.name
        assert bool(tensor.isnan().all()) is (output.name in others), output.name


def fields(model, *but):
    return {name for name in model.model_fields if name not in but}


@pytest.mark.parametrize("schema", mechanism_models())
def test_every_option_of_a_request_can_be_said(schema):
    """Each field of mechanism, mask, inputs and compute is a parameter, an input, or neither."""
    (name,) = get_args(schema.model_fields["kind"].annotation)
    model = MODELS[name]
    said = {*model.parameters.values(), *(tensor.place for tensor in model.inputs.values())}
    expected = {("mechanism", field) for field in fields(schema, "kind", "parameters")}
    expected |= {("mask", field) for field in fields(Mask, "window")}
    expected |= {("mask", "window", field) for field in fields(Window)}
    expected |= {("compute", field) for field in fields(Compute)}
    own = {path[-1] for path in expected if path[0] == "mechanism"}
    idle = REPLACED if MECHANISMS[name].undivided else ["model_dim"]
    expected |= {("inputs", field) for field in fields(SeededInputs, "kind", *own, *idle)}
    expected |= {("inputs", field) for field in ("query", "key", "value")}
    expected |= {
        ("mechanism", "parameters", field)
        for parameters in parameter_models(schema)
        for field in fields(parameters, "kind")
    }
    torch_names = {("mechanism", "parameters", field) for field in TORCH_NAMES}
    assert said - torch_names == expected
    assert bool(said & torch_names) is (name == "multi_head")


def test_names_of_parameters_are_plain():
    """No parameter has a name that the protocol reserves, or that of a field of the request."""
    reserved = {"priority", "timeout", "headers", "binary_data_output", *InferRequest.model_fields}
    for model in MODELS.values():
        for name in model.parameters:
            assert name not in reserved
            assert not name.startswith(("triton_", "sequence_"))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("score", ["dot", "general", "concat"])
def test_weights_have_the_rank_of_the_metadata(name, score):
    """As the mechanism itself wants them."""
    mechanism = {"kind": name} | ({"score": score} if name == "multiplicative" else {})
    wanted = plan(AttentionRequest.model_validate({"mechanism": mechanism})).parameters
    for parameter in wanted:
        assert MODELS[name].inputs[parameter.name].rank == len(parameter.shape)


def test_every_weight_is_an_input_somewhere():
    """By this service's names, and by torch's."""
    named = {name for model in MODELS.values() for name in model.inputs}
    assert set(weight_names()) | set(TORCH_NAMES) <= named


async def test_the_metadata_is_the_table(client):
    """Names, datatypes and −1 for every axis; rank 4, of multi_head 3."""
    for name, model in MODELS.items():
        for path in (f"/v2/models/{name}", f"/v2/models/{name}/versions/1"):
            metadata = (await client.get(path)).json()
            assert (metadata["name"], metadata["versions"]) == (name, ["1"])
            assert [tensor["name"] for tensor in metadata["inputs"]] == list(model.inputs)
            assert [tensor["name"] for tensor in metadata["outputs"]] == list(model.outputs)
            shapes = {t["name"]: t["shape"] for t in metadata["inputs"] + metadata["outputs"]}
            rank = 3 if name == "multi_head" else 4
            for tensor in ("query", "key", "value", "output"):
                assert shapes[tensor] == [-1] * rank
            assert shapes["weights"] == shapes["mask_bias"] == shapes["mask_allowed"] == [-1] * 4
            assert shapes["lse"] == [-1] * 3
            datatypes = {t["name"]: t["datatype"] for t in metadata["inputs"]}
            assert datatypes["mask_allowed"] == "BOOL"
            assert datatypes["key_lengths"] == datatypes["offset"] == "INT64"
            assert {t["datatype"] for t in metadata["outputs"]} == {"FP32"}


async def test_the_config_is_one_of_tritons(client):
    """Parsed by Triton's own definition of a model configuration, every field known to it."""
    for name, model in MODELS.items():
        document = (await client.get(f"/v2/models/{name}/config")).json()
        assert (await client.get(f"/v2/models/{name}/versions/1/config")).json() == document
        config = parsed("ModelConfig", document)
        assert config.name == name
        assert config.max_batch_size == 0
        assert [tensor.name for tensor in config.input if not tensor.optional] == ["query"]
        assert [tensor.name for tensor in config.input] == list(model.inputs)
        assert [tensor.name for tensor in config.output] == list(model.outputs)
        said = config.parameters["request_parameters"].string_value.split(", ")
        assert said == list(model.parameters)
        taken = config.parameters["input_datatypes"].string_value
        assert "query: FP32 FP64 FP16 BF16;" in taken
        assert "key_lengths: INT64 INT32;" in taken


async def test_health_and_metadata_have_a_body(client):
    """200 with a document: some clients look at the one, some at the other."""
    assert (await client.get("/v2/health/live")).json() == {"live": True}
    assert (await client.get("/v2/health/ready")).json() == {"ready": True}
    for path in (f"/v2/models/{MODEL}/ready", f"/v2/models/{MODEL}/versions/1/ready"):
        assert (await client.get(path)).json() == {"name": MODEL, "ready": True}
    server = (await client.get("/v2")).json()
    assert server["name"] == "attention-analysis"
    assert parsed("ServerMetadataResponse", server).version == server["version"]
    assert "binary_tensor_data" in server["extensions"]
    metadata = (await client.get(f"/v2/models/{MODEL}")).json()
    assert parsed("ModelMetadataResponse", metadata).platform == metadata["platform"]


@pytest.mark.parametrize("content", [None, b"", b"{}", b'{"ready":true}'])
async def test_the_index_lists_every_model(client, content):
    """Clients post an empty body."""
    headers = {"content-type": "application/octet-stream"}
    answer = await client.post("/v2/repository/index", content=content, headers=headers)
    assert answer.status_code == 200
    assert [model["name"] for model in answer.json()] == list(MECHANISMS)
    assert {model["state"] for model in answer.json()} == {"READY"}
    listed = parsed("RepositoryIndexResponse", {"models": answer.json()})
    assert [model.version for model in listed.models] == ["1"] * len(MECHANISMS)


def test_a_new_diagnostic_shows_up_by_itself(monkeypatch):
    """What is added to a table of the code is an output, and what is added to a schema an option.

    The tables are read as the module is made, so that it is made again here.
    """
    member = dataclasses.replace(DIAGNOSTICS["entropy"], name="brand_new")
    monkeypatch.setitem(DIAGNOSTICS, "brand_new", member)
    made = [open_inference_models._model(schema) for schema in mechanism_models()]
    assert all(model.outputs["brand_new"].include == ("row_diagnostics",) for model in made)
