"""The normalisers on offer."""

from service.normalizers.base import Normalizer
from service.normalizers.entmax15 import Entmax15
from service.normalizers.sigmoid import Sigmoid
from service.normalizers.softmax import Softmax
from service.normalizers.softmax_one import SoftmaxOne
from service.normalizers.sparsemax import Sparsemax

__all__ = ["NORMALIZERS", "Normalizer"]

NORMALIZERS: dict[str, Normalizer] = {
    member.description.name: member
    for member in (Softmax(), SoftmaxOne(), Sparsemax(), Entmax15(), Sigmoid())
}
