"""How logits become weights."""

from typing import Literal

NormalizerName = Literal["softmax"]
