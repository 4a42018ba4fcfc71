"""The OpenAPI document: request bodies of raw routes, error responses, components."""

from threading import Lock
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from schemas.attention import AttentionRequest
from schemas.comparisons import ComparisonRequest
from schemas.open_inference import IndexRequest, InferRequest
from schemas.problems import Problem
from schemas.softmax import SoftmaxRequest
from schemas.sweeps import SweepLine, SweepRequest
from service.api.api_key import needs_key
from service.api.problems import MEDIA_TYPE
from service.api.request_id import HEADER as REQUEST_ID
from service.encodings import JSON
from service.settings import Settings

_REQUESTS = (
    AttentionRequest,
    SoftmaxRequest,
    SweepRequest,
    ComparisonRequest,
    InferRequest,
    IndexRequest,
)
_REF = "#/components/schemas/{model}"
BINARY = {"schema": {"type": "string", "format": "binary"}}
TEXT = {"schema": {"type": "string"}}
_SCHEME = "key"
_KEY = {
    "type": "http",
    "scheme": "bearer",
    "description": "The key that whoever runs this service has given you.",
}
_REQUEST_ID = {
    "description": "The caller's, where it was sent and is sane; else one made here.",
    "required": True,
    "schema": {"type": "string", "pattern": r"^[A-Za-z0-9._\-]{1,128}$"},
}
_RETRY_AFTER = {
    "description": "Seconds to wait before the next try.",
    "required": True,
    "schema": {"type": "integer", "minimum": 1},
}
_MEANINGS = {
    400: "The body cannot be read as its encoding.",
    401: "The key is missing, or is none that is accepted here.",
    404: "There is no such resource.",
    406: "None of the accepted encodings is written here.",
    408: "The body did not arrive in time.",
    413: "A limit is exceeded: which one, what is needed and the setting that moves it.",
    415: "The body's encoding is not read here.",
    422: "The body was read, but the request is not valid.",
    429: "The service is busy; try again after Retry-After seconds.",
    500: "An unexpected error of the service.",
    503: "The service is starting or stopping.",
    504: "The analysis did not end in time.",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error responses of an operation."""
    schema = {"$ref": _REF.format(model="Problem")}
    return {
        status: {
            "description": _MEANINGS[status],
            "content": {MEDIA_TYPE: {"schema": schema}},
        }
        for status in statuses
    }


def request_body(
    model: str,
    examples: dict[str, dict[str, Any]],
    *,
    binary: str | None = None,
    required: bool = False,
) -> dict[str, Any]:
    """The body of a route that reads it raw, with named examples; absent = `{}`."""
    content: dict[str, Any] = {
        JSON: {"schema": {"$ref": _REF.format(model=model)}, "examples": examples}
    }
    if binary is not None:
        content[binary] = BINARY
    return {"requestBody": {"required": required, "content": content}}


def install(app: FastAPI, settings: Settings) -> None:
    """Make the document once, on first demand; it asks for a key where one is set."""
    making = Lock()

    def openapi() -> dict[str, Any]:
        with making:
            return app.openapi_schema or made()

    def made() -> dict[str, Any]:
        document = get_openapi(
            title=app.title,
            version=app.version,
            summary=app.summary,
            description=app.description,
            tags=app.openapi_tags,
            routes=app.routes,
            license_info=app.license_info,
        )
        components = document.setdefault("components", {})
        components.setdefault("schemas", {}).update(_components())
        if settings.api_key is not None:
            components["securitySchemes"] = {_SCHEME: _KEY}
            _lock(document["paths"], settings)
        _head(document)
        app.openapi_schema = document
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _lock(paths: dict[str, dict[str, Any]], settings: Settings) -> None:
    """Say of each operation behind the key that it is."""
    for path, operations in paths.items():
        if needs_key(path, settings):
            for operation in operations.values():
                operation["security"] = [{_SCHEME: []}]
                operation["responses"] |= {str(s): r for s, r in problems(401).items()}


def _head(document: dict[str, Any]) -> None:
    """The headers of every answer, and those of answers that ask to come again."""
    operations = (operation for item in document["paths"].values() for operation in item.values())
    for operation in operations:
        for status, response in operation["responses"].items():
            again = {"Retry-After": _RETRY_AFTER} if status in ("429", "503") else {}
            given = response.get("headers", {})
            response["headers"] = {**given, REQUEST_ID: _REQUEST_ID, **again}


def _components() -> dict[str, Any]:
    _, schema = models_json_schema(
        [(model, "validation") for model in _REQUESTS]
        + [(Problem, "serialization"), (SweepLine, "serialization")],
        ref_template=_REF,
    )
    definitions: dict[str, Any] = schema["$defs"]
    return definitions
