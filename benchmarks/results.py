"""What the benchmarks measured, kept as one file that the README's tables are of."""

import json
from collections.abc import Sequence
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


def read(file: Path = FILE) -> dict[str, Any]:
    """The tables by name; none where nothing was measured."""
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def note(tables: dict[str, Table], file: Path = FILE) -> None:
    """Put tables into the file, in the place of those of the same name."""
    day = datetime.now(UTC).date().isoformat()
    fresh = {name: {"day": day, **asdict(table)} for name, table in tables.items()}
    kept = dict(sorted((read(file) | fresh).items()))
    file.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
