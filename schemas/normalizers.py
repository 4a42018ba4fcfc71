"""How logits become weights."""

from typing import Literal

NormalizerName = Literal["softmax", "softmax_one", "sparsemax", "entmax15", "sigmoid"]
