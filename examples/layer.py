"""Writes one layer of the real model as a request: `python -m examples.layer 0 '{"…": …}'`.

A safetensors file on standard output: query, key, value and key_lengths of that layer, and the rest
of the request, where one is given, as its metadata entry `request`. With `--sentence N` only that
sentence of the two, without its padding and with its tokens as labels.
"""

import argparse
import json
import sys
from typing import Any

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from examples.data import FILE


def layer(number: int, request: dict[str, Any], sentence: int | None = None) -> bytes:
    """The file for `POST /v1/attention` or `POST /v1/comparisons`."""
    with safe_open(FILE, "pt") as stored:
        names = ("query", "key", "value")
        tensors = {name: stored.get_tensor(f"layer{number}.{name}") for name in names}
        lengths, metadata = stored.get_tensor("key_lengths"), stored.metadata()
    if sentence is None:
        return _file({**tensors, "key_lengths": lengths}, request)
    real = int(lengths[sentence])
    tokens = metadata[f"tokens.{sentence}"].split()[:real]
    alone = {name: t[sentence : sentence + 1, :, :real].contiguous() for name, t in tensors.items()}
    return _file(alone, {"labels": {"query": tokens, "key": tokens}, **request})


def _file(tensors: dict[str, Tensor], request: dict[str, Any]) -> bytes:
    return save(tensors, {"request": json.dumps(request)})


def main() -> None:
    """Write what the arguments ask for."""
    parser = argparse.ArgumentParser(prog="examples.layer", description=(__doc__ or "")[:80])
    parser.add_argument("layer", type=int, choices=range(6))
    parser.add_argument("request", type=json.loads, nargs="?", default={})
    parser.add_argument("--sentence", type=int, choices=(0, 1))
    given = parser.parse_args()
    sys.stdout.buffer.write(layer(given.layer, given.request, given.sentence))


if __name__ == "__main__":
    main()
