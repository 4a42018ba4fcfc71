"""The README's table of what `make stress` measured, made of docs/scorecard.json (make docs)."""

import json
import re
from pathlib import Path
from typing import Any

from docs.generate import table

FILE = Path(__file__).with_name("scorecard.json")
README = Path(__file__).parents[1] / "README.md"
_PLACE = re.compile(r"(<!-- scorecard -->\n).*?(<!-- end of the scorecard -->\n)", re.DOTALL)
_HEADINGS = ("what was done", "must be", "measured")


def shown(scorecard: dict[str, Any]) -> str:
    """A table with a line for each figure, and what it was measured on."""
    runs = scorecard.values()
    figures = [figure for run in runs for figure in run["figures"]]
    rows = [(f["claim"], f["bound"], _marked(f)) for f in figures]
    machines = "; ".join(sorted({f"{run['machine']}, {run['versions']}" for run in runs}))
    return f"{table(_HEADINGS, rows)}\n\nOn {machines}.\n"


def _marked(figure: dict[str, Any]) -> str:
    return figure["measured"] if figure["holds"] else f"**does not hold:** {figure['measured']}"


def renewed(text: str) -> str:
    """The README with the table of today's file."""
    fresh = shown(json.loads(FILE.read_text(encoding="utf-8")))
    return _PLACE.sub(lambda found: f"{found[1]}\n{fresh}\n{found[2]}", text)


if __name__ == "__main__":
    README.write_text(renewed(README.read_text(encoding="utf-8")), encoding="utf-8")
