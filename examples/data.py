"""The data that the examples run on."""

from pathlib import Path

FILE = Path(__file__).with_name("minilm.safetensors")
