"""What the docs page says of every mechanism and normaliser, made from their own tables."""

from typing import Any

from service.api.examples import ATTENTION
from service.mechanisms import MECHANISMS
from service.mechanisms.base import Description
from service.normalizers import NORMALIZERS

_INTRODUCTION = """Attention on your tensors, on a seed and a shape, or on given logits or weights:
output, weights, every diagnostic per head and row, a verdict with evidence and advice.

`{}` is a valid request. A safetensors file with entries `<group>.query`, `<group>.key` and
`<group>.value` is analysed group by group and answered with one ranking of all heads; learned
weights are entries `parameters.<name>`. N queries, M keys; d_q, d_k and d_v are the dimensions of
query, key and value."""


def described_attention() -> str:
    """Markdown: a section a mechanism, and a table of normalisers."""
    pages = [_page(member.description) for member in MECHANISMS.values()]
    described = [member.description for member in NORMALIZERS.values()]
    rows = [f"| `{d.name}` | `{d.formula}` | {d.memory} | {d.source} |" for d in described]
    table = ["| normalizer | weights | memory | source |", "| --- | --- | --- | --- |", *rows]
    return "\n\n".join([_INTRODUCTION, *pages, "### Normalizers", "\n".join(table)])


def _examples(kind: str) -> str:
    """The summaries of the named examples that run this mechanism."""
    own = [e["summary"] for e in ATTENTION.values() if _kind(e["value"]) == kind]
    return "; ".join(own) or "none yet"


def _kind(request: dict[str, Any]) -> str:
    return str(request.get("mechanism", {}).get("kind", "scaled_dot_product"))


def _page(d: Description) -> str:
    weights = "".join(f"\n  - `{parameter}`" for parameter in d.parameters)
    lines = [
        f"### {d.name}",
        d.meaning,
        f"- Formula: `{d.formula}`",
        f"- Inputs: {d.shapes}",
        f"- Learned weights, given or seeded:{weights}" if weights else "- Learned weights: none",
        f"- Source: {d.source}",
        f"- Examples below: {_examples(d.name)}",
    ]
    return f"{lines[0]}\n\n{lines[1]}\n\n" + "\n".join(lines[2:])
