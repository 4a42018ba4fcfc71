"""The README's tables of what was measured, made of docs/benchmarks.json (make docs)."""

import re
from typing import Any

from benchmarks.results import read
from docs.generate import table
from docs.scorecard import README

_PLACE = re.compile(
    r"(<!-- benchmarks: ([\w,; ]+) -->\n).*?(<!-- end of the benchmarks -->\n)", re.DOTALL
)


def places(text: str) -> list[str]:
    """The names of the tables that a page shows, in its order."""
    return [name for found in _PLACE.finditer(text) for name in found[2].split("; ")]


def shown(kept: list[dict[str, Any]]) -> str:
    """Each table below what it is about, and last what they were measured on."""
    tables = [
        f"{each['about']}\n\n{table(tuple(each['headings']), list(map(tuple, each['rows'])))}"
        for each in kept
    ]
    where = "; ".join(sorted({f"{each['measured_on']}, {each['day']}" for each in kept}))
    return "\n\n".join([*tables, f"On {where}."]) + "\n"


def renewed(text: str) -> str:
    """The README with the tables of today's file; a place whose tables are not there is empty."""
    results = read()

    def place(found: re.Match[str]) -> str:
        kept = [results[name] for name in found[2].split("; ") if name in results]
        return found[1] + (f"\n{shown(kept)}\n" if kept else "") + found[3]

    return _PLACE.sub(place, text)


if __name__ == "__main__":
    README.write_text(renewed(README.read_text(encoding="utf-8")), encoding="utf-8")
