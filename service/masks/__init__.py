"""The masks on offer, and how they combine."""

from service.masks.allowed import Allowed
from service.masks.base import Mask
from service.masks.bias import Bias
from service.masks.causal import Causal
from service.masks.combined import CombinedMask
from service.masks.key_lengths import KeyLengths
from service.masks.window import Window

MASKS: tuple[type[Mask], ...] = (Causal, Window, KeyLengths, Allowed, Bias)

__all__ = ["MASKS", "CombinedMask", "Mask"]
