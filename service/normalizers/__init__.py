"""The normalisers on offer."""

from service.normalizers.base import Normalizer
from service.normalizers.softmax import SOFTMAX

NORMALIZERS: dict[str, Normalizer] = {member.name: member for member in (SOFTMAX,)}
