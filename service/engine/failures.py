"""What can go wrong while computing that is no fault of the request."""

import gc

import torch

from service.errors import OutOfMemory

_ALLOCATION = ("can't allocate memory", "not enough memory")


def told(error: BaseException) -> BaseException:
    """The error that callers are told: of a lack of memory in the service's own words."""
    if not _lacks_memory(error):
        return error
    # The frames of the error hold tensors.
    error.__traceback__ = None
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return OutOfMemory("the device had too little free memory for this analysis just now")


def _lacks_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in _ALLOCATION)
