"""The README's tables of the service beside its peers, made of docs/benchmarks.json (make docs)."""

import re
from typing import Any

from benchmarks.results import read
from docs.generate import table
from docs.scorecard import README

TABLES = ("targets", "service", "service, one connection")
"""Those that the README shows, in this order."""
_PLACE = re.compile(r"(<!-- benchmarks -->\n).*?(<!-- end of the benchmarks -->\n)", re.DOTALL)


def shown(results: dict[str, Any]) -> str:
    """Each table below what it is about, and last what they were measured on."""
    chosen = [results[name] for name in TABLES]
    tables = [
        f"{kept['about']}\n\n{table(tuple(kept['headings']), list(map(tuple, kept['rows'])))}"
        for kept in chosen
    ]
    places = "; ".join(sorted({f"{kept['measured_on']}, {kept['day']}" for kept in chosen}))
    return "\n\n".join([*tables, f"On {places}."]) + "\n"


def renewed(text: str) -> str:
    """The README with the tables of today's file, or none where there is no file."""
    results = read()
    fresh = f"\n{shown(results)}\n" if results else ""
    return _PLACE.sub(lambda found: found[1] + fresh + found[2], text)


if __name__ == "__main__":
    README.write_text(renewed(README.read_text(encoding="utf-8")), encoding="utf-8")
