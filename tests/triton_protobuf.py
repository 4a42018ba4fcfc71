"""Triton's own definitions of its documents, from the client's package, without its gRPC client."""

import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import tritonclient
from google.protobuf.json_format import ParseDict

_PLACE = Path(next(iter(tritonclient.__path__))) / "grpc"


@cache
def _definitions() -> tuple[ModuleType, ModuleType]:
    """The modules of messages; the package around them would want grpcio."""
    package = ModuleType("tritonclient.grpc")
    config = _loaded("model_config_pb2")
    package.model_config_pb2 = config  # type: ignore[attr-defined]
    before = sys.modules.get(package.__name__)
    sys.modules[package.__name__] = package
    try:
        return config, _loaded("service_pb2")
    finally:
        del sys.modules[package.__name__]
        if before is not None:
            sys.modules[package.__name__] = before


def _loaded(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"triton_{name}", _PLACE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parsed(message: str, document: dict[str, Any]) -> Any:
    """A document as that message; a field that the message lacks is an error."""
    for module in _definitions():
        if hasattr(module, message):
            return ParseDict(document, getattr(module, message)())
    raise KeyError(message)
