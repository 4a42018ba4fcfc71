"""The mechanisms on offer."""

from service.mechanisms.base import Mechanism
from service.mechanisms.scaled_dot_product import ScaledDotProduct

MECHANISMS: dict[str, Mechanism] = {
    member.description.name: member for member in (ScaledDotProduct(),)
}
