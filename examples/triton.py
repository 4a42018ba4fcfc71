"""Asks a running service by Triton's client, unchanged: `python -m examples.triton [host:port]`.

It needs `pip install 'tritonclient[http]' safetensors`; the service is that of `make serve`.
"""

import sys
from typing import Any

import numpy as np
from safetensors.numpy import load_file
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from examples.data import FILE

MODEL = "scaled_dot_product"
_PHASES = ("queue", "compute_input", "compute_infer", "compute_output")


def tensor(name: str, array: "np.ndarray[Any, Any]", *, binary: bool = True) -> Any:
    """An input as bytes, or as JSON."""
    given = InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    return given.set_data_from_numpy(array, binary_data=binary)


def output(name: str, *, binary: bool = True) -> Any:
    """An output as bytes, or as JSON."""
    return InferRequestedOutput(name, binary_data=binary)


def health(client: Any) -> None:
    """Whether it lives and works, and what it is."""
    server = client.get_server_metadata()
    print(f"live {client.is_server_live()}, ready {client.is_server_ready()}")
    print(f"{server['name']} {server['version']}: {', '.join(server['extensions'])}")


def models(client: Any) -> None:
    """What is on offer, and what one of the models takes."""
    for model in client.get_model_repository_index():
        print(f"{model['name']}, version {model['version']}: {model['state']}")
    metadata = client.get_model_metadata(MODEL)
    print(f"\n{MODEL} takes")
    for given in metadata["inputs"]:
        print(f"  {given['name']:<14}{given['datatype']:<6}{given['shape']}")
    names = [made["name"] for made in metadata["outputs"]]
    print(f"and gives {', '.join(names[:8])}, … ({len(names)} in all)")


def mixed(client: Any) -> None:
    """Two sentences of a real model: tensors as bytes, lengths and figures as JSON."""
    stored = load_file(FILE)
    inputs = [tensor(name, stored[f"layer0.{name}"]) for name in ("query", "key", "value")]
    inputs.append(tensor("key_lengths", stored["key_lengths"], binary=False))
    outputs = [output("output"), output("max_weight", binary=False), output("entropy")]
    result = client.infer(MODEL, inputs, outputs=outputs, request_id="layer 0")
    made = result.as_numpy("output")
    apart = np.abs(made - stored["layer0.output"]).max()
    print(f"id {result.get_response()['id']}, output {made.dtype} {made.shape}")
    print(f"at most {apart:.0e} from what the model itself computed")
    for name in ("max_weight", "entropy"):
        heads = result.as_numpy(name).mean(axis=(0, 2))
        print(f"{name:<11}by head: " + "  ".join(f"{figure:.2f}" for figure in heads))


def half(client: Any) -> None:
    """FP16, compressed both ways, with options as flat parameters."""
    query = load_file(FILE)["layer0.query"].astype(np.float16)
    result = client.infer(
        MODEL,
        [tensor("query", query)],
        outputs=[output("output"), output("lse")],
        parameters={"causal": "lower_right", "softcap": 30.0},
        timeout=10_000_000,
        request_compression_algorithm="gzip",
        response_compression_algorithm="deflate",
    )
    for made in result.get_response()["outputs"]:
        bytes_ = made["parameters"]["binary_data_size"]
        print(f"{made['name']}: {made['datatype']} {made['shape']}, {bytes_:,} bytes")


def refused(client: Any) -> None:
    """What an error looks like to the client."""
    query = np.ones((2, 4), dtype=np.float32)
    try:
        client.infer(MODEL, [tensor("query", query)], parameters={"softcap": -1})
    except InferenceServerException as error:
        print(f"status {error.status()}: {error.message()}")


def statistics(client: Any) -> None:
    """Counts, and where the time went."""
    (model,) = client.get_inference_statistics(MODEL)["model_stats"]
    stats = model["inference_stats"]
    print(f"{stats['success']['count']} answered, {stats['fail']['count']} refused; on average")
    for phase in _PHASES:
        each = stats[phase]["ns"] / 1e6 / max(1, stats[phase]["count"])
        print(f"  {phase:<16}{each:.2f} ms")


STEPS = {
    "Health": health,
    "Models": models,
    "Bytes and JSON mixed": mixed,
    "FP16, causal, compressed": half,
    "A request that makes no sense": refused,
    "Statistics": statistics,
}


def main(address: str = "127.0.0.1:8000") -> None:
    """Print all steps."""
    with InferenceServerClient(address) as client:
        for number, (title, step) in enumerate(STEPS.items(), start=1):
            print(f"{'' if number == 1 else chr(10)}{number}. {title}\n")
            step(client)


if __name__ == "__main__":
    main(*sys.argv[1:2])
