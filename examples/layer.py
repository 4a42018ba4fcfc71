"""Writes one layer of the real model as a request: `python -m examples.layer 0 '{"…": …}'`.

A safetensors file on standard output: query, key, value and key_lengths of that layer, and the rest
of the request, where one is given, as its metadata entry `request`.
"""

import json
import sys

from safetensors.torch import load_file, save

from examples.demo import FILE


def layer(number: int, request: str) -> bytes:
    """The file for `POST /v1/attention` or `POST /v1/comparisons`."""
    stored = load_file(FILE)
    tensors = {name: stored[f"layer{number}.{name}"] for name in ("query", "key", "value")}
    tensors["key_lengths"] = stored["key_lengths"]
    return save(tensors, {"request": json.dumps(json.loads(request))})


def main() -> None:
    """Write what the arguments ask for."""
    if len(sys.argv) not in (2, 3):
        raise SystemExit(__doc__)
    request = sys.argv[2] if len(sys.argv) == 3 else "{}"
    sys.stdout.buffer.write(layer(int(sys.argv[1]), request))


if __name__ == "__main__":
    main()
