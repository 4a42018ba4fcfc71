"""What the benchmarks measured, kept as one file that the README's tables are of."""

import argparse
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[1] / "docs" / "benchmarks.json"


@dataclass(frozen=True, slots=True)
class Table:
    """One table: what it is about, on what it was measured, its cells, and the figures in them."""

    about: str
    measured_on: str
    headings: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    figures: dict[str, Any] = field(default_factory=dict)


Row = tuple[str, ...]


def growing(about: str, measured_on: str, headings: Row, rows: Iterable[Row]) -> Table:
    """A table that is printed row by row, as its rows are measured."""
    print(f"\n{about}\nOn {measured_on}; load {os.getloadavg()[0]:.1f} as it begins.\n")
    print(_line(headings), _line(("---",) * len(headings)), sep="\n", flush=True)
    found = []
    for row in rows:
        print(_line(row), flush=True)
        found.append(row)
    return Table(about, measured_on, headings, found)


def _line(cells: Row) -> str:
    return f"| {' | '.join(cells)} |"


def parser(name: str, about: str, *, rounds: int) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    found = argparse.ArgumentParser(prog=f"benchmarks.{name}", description=about)
    found.add_argument("--rounds", type=int, default=rounds)
    found.add_argument("--write", action="store_true", help="keep it in docs/benchmarks.json")
    return found


def read(file: Path = FILE) -> dict[str, Any]:
    """The tables by name; none where nothing was measured."""
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def note(tables: dict[str, Table], file: Path = FILE) -> None:
    """Put tables into the file, in the place of those of the same name."""
    day = datetime.now(UTC).date().isoformat()
    fresh = {name: {"day": day, **asdict(table)} for name, table in tables.items()}
    kept = dict(sorted((read(file) | fresh).items()))
    file.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
