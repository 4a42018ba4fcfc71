"""Prints a few figures of an answer: reads JSON on standard input, needs nothing but Python.

… | python3 examples/show.py get verdict.shares diagnostics.entropy.mean
… | python3 examples/show.py sweep entropy entropy:predicted saturated_share
… | python3 examples/show.py comparison entropy max_weight
… | python3 examples/show.py remedies
"""

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

_DIGITS = 3


def number(value: object) -> str:
    """To three significant digits; undefined is a dash."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, float | int):
        return str(value)
    if isinstance(value, int) or (value == int(value) and abs(value) < 1e6):
        return str(int(value))
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.{_DIGITS}g}"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they need to be."""
    lines = [list(headings), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(headings))]
    padded = [[cell.ljust(w) for cell, w in zip(line, widths, strict=True)] for line in lines]
    return "\n".join("  ".join(line).rstrip() for line in padded)


def get(answer: Any, *paths: str) -> str:
    """Single values by their path; lists are printed whole."""
    return "\n".join(f"{path}: {_shown(_at(answer, path))}" for path in paths)


def _at(answer: Any, path: str) -> Any:
    for step in path.split("."):
        answer = answer[int(step)] if isinstance(answer, list) else _named(answer, step)
    return answer


def _named(fields: Any, name: str) -> Any:
    """A field, or what there is instead."""
    if name not in fields:
        raise SystemExit(f"no {name} here; there are {', '.join(fields)}")
    return fields[name]


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_shown, value)) + "]"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(inner)}" for key, inner in value.items())
    return number(value)


def sweep(answer: Any, *names: str) -> str:
    """A line for each point: NAME is measured ± its standard error, NAME:predicted the theory."""
    several = len({row["key_length"] for row in answer["rows"]}) > 1
    extents = ["d_k", "scale", *(["key_length"] if several else [])]
    rows = [
        [*(str(row[extent]) for extent in extents), *(_figure(row, name) for name in names)]
        for row in answer["rows"]
    ]
    return table([*extents, *names], rows)


def _figure(row: Any, name: str) -> str:
    name, _, kind = name.partition(":")
    if kind:
        return number(_named(row, kind).get(name, {}).get("value"))
    measured = _named(row["measured"], name)
    error = measured["standard_error"]
    return number(measured["mean"]) + ("" if error is None else f" ± {float(f'{error:.1g}'):g}")


def comparison(answer: Any, *names: str) -> str:
    """A line for each variant: pooled figures, the output's change, and its saturated heads."""
    return _by_group(answer, lambda group: _variants(group, *names))


def _by_group(answer: Any, show: Callable[[Any], str]) -> str:
    """Of a file with groups, one after the other."""
    if "groups" not in answer:
        return show(answer)
    return "\n\n".join(f"{group['name']}:\n{show(group)}" for group in answer["groups"])


def _variants(answer: Any, *names: str) -> str:
    rows = [
        [
            variant["label"],
            *(number(_pooled(_named(variant["diagnostics"], name))) for name in names),
            number(variant["output_change"]),
            _saturated(variant),
        ]
        for variant in answer["variants"]
    ]
    return table(["variant", *names, "output change", "saturated heads"], rows)


def _pooled(figure: Any) -> float | None:
    pairs = [
        (mean, rows)
        for means, counts in zip(figure["mean"], figure["rows"], strict=True)
        for mean, rows in zip(means, counts, strict=True)
        if mean is not None
    ]
    total = sum(rows for _, rows in pairs)
    return sum(mean * rows for mean, rows in pairs) / total if total else None


def _saturated(variant: Any) -> str:
    """At least half of their rows, as the verdict has it; a dash where that is undefined."""
    if all(share is None for share in variant["saturated_share"]):
        return "–"
    heads = [h for h, share in enumerate(variant["saturated_share"]) if share and share >= 0.5]
    return ", ".join(map(str, heads)) or "none"


def remedies(answer: Any) -> str:
    """What a recommendation comes to: the value for all heads, its cost, and who needs one."""
    return _by_group(answer, _remedies)


def _remedies(answer: Any) -> str:
    found = answer.get("recommendation")
    if found is None:
        return f"no recommendation: {answer.get('reason', 'the request has no target')}"
    rows = []
    for name in ("temperature", "softcap"):
        remedy = found[name]
        needing = [h["head"] for h in found[name]["heads"] if h["value"] is not None]
        rows.append(
            [name, number(remedy["value"]), number(remedy["output_change"]), _listed(needing)]
        )
    clip = found["qk_clip"]
    clipped = [h for h in clip["heads"] if h["tau"] is not None]
    said = ", ".join(f"τ {h['tau']:.4g} (γ {h['gamma']:.3g})" for h in clipped) or "none"
    needing = [h["head"] for h in clipped]
    rows.append(["QK-clip", said, number(clip["output_change"]), _listed(needing)])
    head = (
        f"{found['figure']}, target {number(found['target'])}; as it is {_shown(found['baseline'])}"
    )
    return head + "\n" + table(["setting", "value", "output change", "heads that need it"], rows)


def _listed(heads: list[int]) -> str:
    return ", ".join(map(str, heads)) or "none"


WAYS = {"get": get, "sweep": sweep, "comparison": comparison, "remedies": remedies}


def main() -> None:
    """Print what the arguments ask for."""
    if len(sys.argv) < 2 or sys.argv[1] not in WAYS:
        raise SystemExit(__doc__)
    answer = json.load(sys.stdin)
    if "detail" in answer and "status" in answer:
        raise SystemExit(answer["detail"])
    print(WAYS[sys.argv[1]](answer, *sys.argv[2:]))


if __name__ == "__main__":
    main()
