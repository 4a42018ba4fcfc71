"""The bytes of a tensor in row-major order, where they lie."""

import torch
from torch import Tensor


def bytes_of(tensor: Tensor) -> memoryview:
    """A view of the elements' bytes; copied only where they do not lie in this order."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
