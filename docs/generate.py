"""Writes docs/reference.md from the code's own tables: `python -m docs.generate` (make docs)."""

from collections.abc import Iterable
from pathlib import Path

from service.api.problems import known_problems
from service.app import create_app
from service.diagnostics import DIAGNOSTICS
from service.diagnostics.included import INCLUDED
from service.diagnostics.verdict import HEAD_RULES, REGIMES, RULES_VERSION
from service.encodings import ENCODINGS
from service.includes import INCLUDES
from service.laboratory.figures import SWEPT
from service.limits import UNITS
from service.masks import MASKS
from service.mechanisms import MECHANISMS
from service.normalizers import NORMALIZERS
from service.settings import Settings
from service.wire.open_inference_models import MODELS

FILE = Path(__file__).with_name("reference.md")
_INTRODUCTION = """# Reference

Made by `make docs` from the tables that the service itself uses; `/v1/catalogue`, `/v1/limits` and
`/problems/…` answer the same."""
_SYMBOLS = """m is a row's largest logit, n its visible keys, u = exp(s − m), l = Σ u, P = 1/l; t, Q
and R are the sums of u, p² and p³ over all keys but the largest, e1 and e2 those of u·(s − m) and
u·(s − m)²."""

_MODELS = """At `/v2`, where each mechanism is a model. Outputs are `output`, `weights`, `logits`,
`scores` and every diagnostic above by its name, per row (batch, head, query) in FP32; those of
hidden units only where a model has a `score_vector`. Parameters from `seed` on draw query, key and
value where none of them is given."""


def table(headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table; bars inside cells are escaped."""
    lines = [headings, tuple("---" for _ in headings), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def _mechanisms() -> str:
    rows = [
        (
            f"`{d.name}`",
            d.meaning,
            f"`{d.formula}`",
            d.shapes,
            "; ".join(f"`{p}`" for p in d.parameters) or "–",
            d.source,
        )
        for d in (m.description for m in MECHANISMS.values())
    ]
    return table(("name", "meaning", "formula", "inputs", "parameters", "source"), rows)


def _normalizers() -> str:
    rows = [
        (f"`{d.name}`", d.meaning, f"`{d.formula}`", d.memory, d.source)
        for d in (n.description for n in NORMALIZERS.values())
    ]
    return table(("name", "meaning", "formula", "memory", "source"), rows)


def _masks() -> str:
    described = [kind.description for kind in MASKS]
    rows = [(f"`{d.name}`", d.meaning, f"`{d.formula}`", d.source) for d in described]
    return table(("mask", "meaning", "a key is visible where", "source"), rows)


def _diagnostics() -> str:
    rows = [
        (f"`{d.name}`", d.meaning, f"`{d.formula}`", d.unit, d.range, d.domain, d.source)
        for d in (*DIAGNOSTICS.values(), *INCLUDED.values())
    ]
    return table(("name", "meaning", "formula", "unit", "range", "defined for", "source"), rows)


def _swept() -> str:
    rows = [
        (f"`{f.name}`", f.meaning, f"`{f.formula}`", f.unit, f.range, f.source)
        for f in SWEPT.values()
    ]
    return table(("name", "meaning", "formula", "unit", "range", "source"), rows)


def _models() -> str:
    """What each model takes, in the order of its metadata."""
    rows = [
        (f"`{name}`", _names(model.inputs), _names(model.parameters))
        for name, model in MODELS.items()
    ]
    return table(("model", "inputs", "parameters"), rows)


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


_CHOSEN = {"threads": "usable cores", "pass_": "native, where built"}


def _default(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "–" if value is None or value == () else f"{value}"


def _limits() -> str:
    rows = []
    for name, field in Settings.model_fields.items():
        default = _CHOSEN.get(name) or _default(field.default)
        unit = UNITS.get(name, "")
        rows.append((f"`{Settings.name_of(name)}`", default, unit, field.description or ""))
    return table(("setting", "default", "unit", "meaning"), rows)


def _metrics() -> str:
    described = create_app(Settings()).state.shared.metrics.described
    return table(
        ("metric", "kind", "meaning"),
        [(f"`{name}`", kind, meaning) for name, kind, meaning in described],
    )


def _problems() -> str:
    rows = [
        (f"`/problems/{slug}`", str(status), title, meaning)
        for slug, (status, title, meaning) in sorted(known_problems().items())
    ]
    return table(("type", "status", "title", "meaning"), rows)


def reference() -> str:
    """The whole page."""
    regimes = [(f"`{name}`", rule) for name, rule in REGIMES.items()]
    includes = [(f"`{name}`", meaning) for name, meaning in INCLUDES.items()]
    encodings = [(f"`{name}`", meaning) for name, meaning in ENCODINGS.items()]
    parts = [
        _INTRODUCTION,
        "## Mechanisms",
        _mechanisms(),
        "## Normalisers",
        _normalizers(),
        "## Masks",
        _masks(),
        "## Diagnostics",
        _SYMBOLS,
        _diagnostics(),
        "## Figures of sweeps",
        _swept(),
        f"## Verdict (rules version {RULES_VERSION}, this service's convention)",
        table(("regime of a row", "rule"), regimes),
        f"A head, and the whole over all rows pooled: {HEAD_RULES}.",
        "## What can be included",
        table(("name", "meaning"), includes),
        "## Encodings",
        table(("name", "meaning"), encodings),
        "## Models of the Open Inference Protocol",
        _MODELS,
        _models(),
        "## Settings and limits",
        _limits(),
        "## Metrics",
        _metrics(),
        "## Problems",
        _problems(),
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    FILE.write_text(reference(), encoding="utf-8")
