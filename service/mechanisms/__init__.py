"""The mechanisms on offer."""

from typing import Any

from service.mechanisms.additive import Additive
from service.mechanisms.base import Mechanism
from service.mechanisms.multi_head import MultiHead
from service.mechanisms.multiplicative import Multiplicative
from service.mechanisms.scaled_dot_product import ScaledDotProduct

MECHANISMS: dict[str, Mechanism[Any]] = {
    member.description.name: member
    for member in (ScaledDotProduct(), Additive(), Multiplicative(), MultiHead())
}
