import asyncio
import json
import math
import os
import re
import threading
import time
from html.parser import HTMLParser
from importlib.resources import files
from urllib.parse import urljoin, urlparse

import httpx
import pytest
from jsonschema import Draft202012Validator

from service.api.examples import ATTENTION, BY_PATH, attention_answers
from service.app import create_app
from service.attention.native import library
from service.wire.open_inference_models import DTYPES

pytestmark = pytest.mark.anyio

ANSWERED = ("own_tensors", "given_weights")
ANSWERS_FILE = files("service.api").joinpath("example_answers.json")
VARYING = ("request_id", "timing_ms")


@pytest.fixture(scope="module")
def document():
    """The OpenAPI document, made once."""
    return create_app().openapi()


@pytest.fixture(scope="module")
def operations(document):
    """Every operation with its method and path."""
    return [
        (method, path, operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
    ]


def everything_in(value):
    """Every value inside a document, itself included."""
    yield value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for part in inner:
        yield from everything_in(part)


def resolved(document, reference):
    """What a local reference points to."""
    assert reference.startswith("#/")
    found = document
    for step in reference.removeprefix("#/").split("/"):
        found = found[step.replace("~1", "/").replace("~0", "~")]
    return found


def validator(document, schema):
    """A validator of one schema of the document."""
    return Draft202012Validator({**schema, "components": document["components"]})


def content_of(operation, kind="application/json"):
    return operation["requestBody"]["content"][kind]


async def test_the_document_is_openapi_3_1_and_served(client, document):
    """/openapi.json is an OpenAPI 3.1 document, and the one that the code makes."""
    served = await client.get("/openapi.json")
    assert served.status_code == 200
    assert served.json() == document
    assert document["openapi"].startswith("3.1.")
    assert document["info"]["title"]
    assert document["info"]["license"]["name"] == "Apache-2.0"
    assert re.fullmatch(r"\d+\.\d+\.\d+", document["info"]["version"])


async def test_the_document_is_made_when_asked_for_and_beside_the_event_loop():
    """Nobody waits for a document that nobody reads; who asks for one holds up nobody else."""
    app, makers = create_app(), []
    make = app.openapi

    def seen():
        assert app.openapi_schema is None
        makers.append(threading.current_thread())
        return make()

    app.openapi = seen
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        assert (await client.get("/openapi.json")).status_code == 200
    assert len(makers) == 1
    assert makers[0] is not threading.current_thread()


async def test_who_asks_at_once_gets_one_document():
    """It is made once, however many threads ask first."""
    documents = await asyncio.gather(
        *[asyncio.to_thread(app.openapi) for app in [create_app()] * 4]
    )
    assert all(found is documents[0] for found in documents)


async def test_the_document_names_the_path_that_a_proxy_adds(document):
    """Behind a proxy that adds a prefix the operations are below it; elsewhere at the root."""
    transport = httpx.ASGITransport(create_app(), root_path="/attention")
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        served = (await client.get("/attention/openapi.json")).json()
    assert served == {**document, "servers": [{"url": "/attention"}]}
    assert "servers" not in document


def test_every_operation_is_described(document, operations):
    """Each has a summary, a description, a known tag and an operation id of its own."""
    known = {tag["name"] for tag in document["tags"]}
    assert all(tag["description"] for tag in document["tags"])
    identities = [operation["operationId"] for *_, operation in operations]
    assert len(set(identities)) == len(identities) >= 7
    for method, path, operation in operations:
        place = f"{method} {path}"
        assert operation["summary"], place
        assert operation["description"], place
        assert operation["tags"], place
        assert set(operation["tags"]) <= known, place
        assert re.fullmatch(r"[a-z]+(_[a-z0-9]+)+", operation["operationId"]), place


def test_every_operation_declares_its_errors(document, operations):
    """Each error is declared as problem+json with the one schema, and 500 is never left out."""
    for method, path, operation in operations:
        place = f"{method} {path}"
        failures = {s: r for s, r in operation["responses"].items() if int(s) >= 400}
        assert "500" in failures, place
        for response in failures.values():
            assert response["description"], place
            (media_type,) = response["content"]
            assert media_type == "application/problem+json", place
            schema = response["content"][media_type]["schema"]
            assert schema == {"$ref": "#/components/schemas/Problem"}, place
    names = document["components"]["schemas"]
    assert not {"HTTPValidationError", "ValidationError"} & set(names)


def test_every_answer_declares_its_headers(document, operations):
    """The request id on each, and when to come again on those that ask for it."""
    for method, path, operation in operations:
        for status, response in operation["responses"].items():
            again = {"Retry-After"} if status in ("429", "503") else set()
            assert response["headers"].keys() == {"X-Request-ID", *again}, f"{method} {path}"


def test_every_success_has_a_schema(document, operations):
    """What an operation answers is described by a model of its own."""
    for method, path, operation in operations:
        if path == "/metrics":  # a format of its own, described elsewhere
            continue
        schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
        assert "$ref" in schema or "anyOf" in schema, f"{method} {path}"


TENSORS = {"application/json", "application/x-safetensors"}
OCTETS = {"application/json", "application/octet-stream"}
INFER = ("/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer")
INDEX = "/v2/repository/index"
FILLED = {"model": "scaled_dot_product", "version": "1"}
PICTURES = {"image/png", "image/svg+xml"}
ENCODINGS = {
    "/v1/attention": (TENSORS, TENSORS | PICTURES),
    "/v1/attention/estimate": (TENSORS, {"application/json"}),
    "/v1/softmax": (TENSORS, TENSORS),
    "/v1/sweeps": (
        {"application/json"},
        TENSORS | {"application/x-ndjson", "text/csv"} | PICTURES,
    ),
    "/v1/comparisons": (TENSORS, TENSORS | PICTURES),
    **dict.fromkeys(INFER, (OCTETS, OCTETS)),
    INDEX: ({"application/json"}, {"application/json"}),
}
VIEW = ["batch", "head", "theme"]
PARAMETERS = {
    "/v1/attention": ["request", *VIEW],
    "/v1/attention/estimate": ["request", "accept"],
    "/v1/softmax": ["request"],
    "/v1/sweeps": ["theme"],
    "/v1/comparisons": ["request", *VIEW],
    INFER[0]: ["model", "Inference-Header-Content-Length"],
    INFER[1]: ["model", "version", "Inference-Header-Content-Length"],
    INDEX: [],
}


@pytest.mark.parametrize("path", BY_PATH)
def test_encodings_and_parameters_are_declared(document, path):
    """Every operation with a body declares what it takes and gives, and its query parameters."""
    operation = document["paths"][path]["post"]
    taken, given = ENCODINGS[path]
    assert set(operation["requestBody"]["content"]) == taken
    assert set(operation["responses"]["200"]["content"]) == given
    assert [p["name"] for p in operation.get("parameters", [])] == PARAMETERS[path]


@pytest.mark.parametrize("path", BY_PATH)
def test_the_docs_page_asks_for_json_unless_told(document, path):
    """Swagger UI asks for the first media type, and sends every default of a parameter."""
    operation = document["paths"][path]["post"]
    assert next(iter(operation["responses"]["200"]["content"])) == "application/json"
    assert next(iter(operation["requestBody"]["content"])) == "application/json"
    parameters = operation.get("parameters", [])
    defaults = {p["name"]: p["schema"].get("default") for p in parameters}
    sent = {name: default for name, default in defaults.items() if default is not None}
    assert sent in ({}, {"accept": "application/json"})


async def test_what_is_declared_is_what_is_given(client):
    """Each encoding of an answer can be asked for, and is what comes."""
    for path, (_, given) in ENCODINGS.items():
        for kind in given:
            request = QUICK[path] | ASKED.get((path, kind), {})
            answer = await client.post(
                path.format(**FILLED), json=request, headers={"accept": kind}
            )
            assert answer.status_code == 200, (path, kind, answer.text[:300])
            assert answer.headers["content-type"].partition(";")[0] == kind


QUICK = {
    "/v1/attention": {"inputs": {"kind": "seeded", "query_length": 2}},
    "/v1/attention/estimate": {},
    "/v1/softmax": {"logits": [1, 2]},
    "/v1/sweeps": {"d_k": [4], "repeats": 2, "query_length": 4},
    "/v1/comparisons": {"inputs": {"kind": "seeded", "query_length": 2}},
    **{path: {"parameters": {"seed": 0}} for path in INFER},
    INDEX: {},
}
# There the request says which it is; its clients send no Accept that means anything.
ASKED = {
    (path, "application/octet-stream"): {"parameters": {"seed": 0, "binary_data_output": True}}
    for path in INFER
}


def test_every_operation_with_a_body_has_examples(document):
    """A new one that stands in no table here is named."""
    posts = {path for path, item in document["paths"].items() if "post" in item}
    assert posts == set(BY_PATH) == set(ENCODINGS) == set(PARAMETERS) == set(QUICK)


def test_the_analysis_declares_its_errors(document):
    """All that can happen to it."""
    operation = document["paths"]["/v1/attention"]["post"]
    expected = {400, 406, 408, 413, 415, 422, 429, 500, 503, 504}
    assert {int(s) for s in operation["responses"]} == expected | {200}


def test_all_references_resolve(document):
    """No reference points to nothing, and no component is an orphan."""
    references = {v["$ref"] for v in everything_in(document) if isinstance(v, dict) and "$ref" in v}
    assert references
    for reference in references:
        assert resolved(document, reference)
    components = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert components <= references


def test_no_bound_is_infinite(document):
    """Every number of the document is finite, so that it is JSON at all."""
    numbers = [v for v in everything_in(document) if isinstance(v, float)]
    assert all(math.isfinite(number) for number in numbers)
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_all_schemas_are_json_schema(document):
    """Each component is valid JSON Schema 2020-12, the dialect of OpenAPI 3.1."""
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("path", BY_PATH)
def test_every_example_is_shown(document, path):
    """The named examples in the document are those of the code, each with a summary."""
    shown = content_of(document["paths"][path]["post"])["examples"]
    assert shown == BY_PATH[path]
    assert len(shown) >= 2
    assert all(example["summary"] and example["description"] for example in shown.values())


@pytest.mark.parametrize(
    ("path", "name"), [(path, name) for path, examples in BY_PATH.items() for name in examples]
)
async def test_every_example_runs_as_it_stands(client, document, path, name):
    """A named example fits the documented request, is answered quickly, and so is its answer."""
    operation = document["paths"][path]["post"]
    request = BY_PATH[path][name]["value"]
    validator(document, content_of(operation)["schema"]).validate(request)
    began = time.monotonic()
    answer = await client.post(path.format(**FILLED), json=request)
    assert time.monotonic() - began < (15 if path == "/v1/sweeps" else 5)
    assert answer.status_code == 200, answer.text[:500]
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    validator(document, schema).validate(answer.json())


@pytest.mark.parametrize(
    "request_body",
    [
        {"unknown": 1},
        {"inputs": {"kind": "nope"}},
        {"inputs": {"kind": "seeded", "batch": 0}},
        {"mechanism": {"softcap": 0}},
        {"include": ["everything"]},
        {"compute": {"device": "tpu"}},
        {"inputs": {"kind": "tensors"}},
        {"inputs": {"kind": "tensors", "query": "text"}},
        {"inputs": {"kind": "tensors", "query": [[True]]}},
        {"inputs": {"kind": "tensors", "query": [[None]]}},
        {"inputs": {"kind": "tensors", "query": [[1e39]]}},
        {"inputs": {"kind": "tensors", "query": {"shape": [-1], "data": []}}},
        {"inputs": {"kind": "tensors", "query": {"shape": [1], "dtype": "bool", "data": [1]}}},
        {"inputs": {"query_length": 3}},
        {"mask": {"allowed": [[1, 0]]}},
        {"mask": {"key_lengths": [[1]]}},
        {"mask": {"causal": "upper_left", "offset": 1.5}},
        {"mask": {"window": {"left": -1}}},
    ],
)
def test_the_documented_request_refuses_what_the_service_refuses(document, request_body):
    """The schema of the request is as strict as the service where a schema can be."""
    schema = content_of(document["paths"]["/v1/attention"]["post"])["schema"]
    assert not validator(document, schema).is_valid(request_body)


@pytest.mark.parametrize(
    "request_body",
    [
        {"target": {}},
        {"target": {"saturated_share_max": 0.1, "normalized_entropy_min": 0.5}},
        {"inputs": {"kind": "weights", "weights": [[1]]}},
    ],
)
def test_the_documented_comparison_refuses_what_the_service_refuses(document, request_body):
    """A target has one figure, and weights that are given as such are not compared."""
    schema = content_of(document["paths"]["/v1/comparisons"]["post"])["schema"]
    assert validator(document, schema).is_valid({"target": {"saturated_share_max": 0.1}})
    assert not validator(document, schema).is_valid(request_body)


def test_every_datatype_is_documented(document):
    """Of the Open Inference Protocol, those that are read here."""
    datatype = document["components"]["schemas"]["InferInput"]["properties"]["datatype"]
    assert set(datatype["enum"]) == set(DTYPES)


def test_a_body_is_required_where_something_in_it_is(document):
    """Everything has a default, save the logits of softmax."""
    required = {
        path for path in BY_PATH if document["paths"][path]["post"]["requestBody"]["required"]
    }
    assert required == {"/v1/softmax"}


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/nothing"), ("POST", "/health/live"), ("POST", "/v1/attention?request=x")],
)
async def test_errors_fit_the_documented_problem(client, document, method, path):
    """What the service answers in error is what the document says of errors."""
    answer = await client.request(method, path, json={})
    assert answer.status_code >= 400
    schema = {"$ref": "#/components/schemas/Problem"}
    validator(document, schema).validate(answer.json())


@pytest.mark.parametrize(
    "path",
    [p for p, o in create_app().openapi()["paths"].items() if "get" in o and p != "/metrics"],
)
async def test_answers_fit_their_documented_schema(client, document, path):
    """Every GET answers what the document says."""
    response = document["paths"][path]["get"]["responses"]["200"]
    answer = await client.get(path.format(slug="busy", **FILLED))
    assert answer.status_code == 200
    schema = response["content"]["application/json"]["schema"]
    validator(document, schema).validate(answer.json())


async def answer_to(client, name):
    answer = (await client.post("/v1/attention", json=ATTENTION[name]["value"])).json()
    if library.available() is None:
        # Where nothing is compiled the eager pass gives the same figures.
        answer["numerics"]["pass"] = "native"
    return {**answer, "request_id": "0" * 32, "timing_ms": {"queue": 0.1, "compute": 0.4}}


def assert_close(found, expected, place=""):
    """Equal, with floats to 1e-5 relative and 1e-6 absolute."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), place
        for key, value in expected.items():
            assert_close(found[key], value, f"{place}/{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), place
        for index, value in enumerate(expected):
            assert_close(found[index], value, f"{place}/{index}")
    elif isinstance(expected, float) and isinstance(found, float | int):
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-6), place
    else:
        assert found == expected, place


async def test_shown_answers_are_what_the_service_answers(client, document):
    """The answers on the docs page are real; REGENERATE_EXAMPLES=1 writes them anew."""
    found = {name: await answer_to(client, name) for name in ANSWERED}
    if os.environ.get("REGENERATE_EXAMPLES") == "1":
        text = json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False)
        ANSWERS_FILE.write_text(f"{text}\n", encoding="utf-8")
    stored = json.loads(ANSWERS_FILE.read_text(encoding="utf-8"))
    assert stored.keys() == set(ANSWERED)
    for name in ANSWERED:
        machine = {"device", "torch"}
        expected = {key: v for key, v in stored[name].items() if key not in machine}
        assert_close({k: v for k, v in found[name].items() if k not in machine}, expected, name)
    shown = attention_answers()
    assert {name: example["value"] for name, example in shown.items()} == stored
    response = document["paths"]["/v1/attention"]["post"]["responses"]["200"]
    schema = response["content"]["application/json"]["schema"]
    for name in ANSWERED:
        validator(document, schema).validate(stored[name])
        assert not set(VARYING) - stored[name].keys()


class Links(HTMLParser):
    """Everything a page would load."""

    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):  # noqa: ARG002 - the parser's form
        self.found += [v for n, v in attrs if n in ("src", "href", "spec-url", "srcset", "data")]


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
async def test_the_docs_load_from_this_machine_only(client, page):
    """Every file that a docs page loads is served here, and none of them loads from elsewhere."""
    answer = await client.get(page)
    assert answer.status_code == 200
    links = Links(answer.text).found
    assert len(links) >= 2
    assert "/openapi.json" in answer.text
    for link in links:
        where = urljoin(f"http://service{page}", link)
        assert urlparse(where).netloc == "service", link
        loaded = await client.get(where)
        assert loaded.status_code == 200, link
        assert loaded.content
    assert not re.findall(r"https?://[^\s\"'<)]+", answer.text)


async def test_the_style_sheet_loads_nothing_from_elsewhere(client):
    """Fonts and pictures of the docs page are inside its style sheet."""
    css = (await client.get("/static-offline-docs/swagger-ui.css")).text
    assert not re.findall(r"@import|url\(\s*[\"']?(?:https?:)?//", css)


async def test_the_page_offers_to_try_it_out(client):
    """The docs page is ready to execute, so that the first answer is three clicks away."""
    assert '"tryItOutEnabled": true' in (await client.get("/docs")).text
