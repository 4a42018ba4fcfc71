"""The diagnostics on offer, their aggregates, and the verdict."""

from service.diagnostics.base import Diagnostic, evaluate
from service.diagnostics.concentration import CONCENTRATION
from service.diagnostics.hidden import HIDDEN
from service.diagnostics.jacobian import JACOBIAN
from service.diagnostics.keys import KEYS
from service.diagnostics.logits import LOGITS
from service.diagnostics.rows import Rows
from service.diagnostics.scores import SCORES
from service.diagnostics.weights import WEIGHTS

DIAGNOSTICS: dict[str, Diagnostic] = {
    member.name: member
    for member in (*KEYS, *CONCENTRATION, *WEIGHTS, *LOGITS, *SCORES, *HIDDEN, *JACOBIAN)
}

__all__ = ["DIAGNOSTICS", "Diagnostic", "Rows", "evaluate"]
