"""The diagnostics on offer, their aggregates, and the verdict."""

from service.diagnostics.base import Diagnostic, Rows, evaluate
from service.diagnostics.concentration import CONCENTRATION
from service.diagnostics.jacobian import JACOBIAN
from service.diagnostics.keys import KEYS
from service.diagnostics.logits import LOGITS
from service.diagnostics.scores import SCORES

DIAGNOSTICS: dict[str, Diagnostic] = {
    member.name: member for member in (*KEYS, *CONCENTRATION, *LOGITS, *SCORES, *JACOBIAN)
}

__all__ = ["DIAGNOSTICS", "Diagnostic", "Rows", "evaluate"]
