"""The scorecard: what the stress runs measured, kept as one file that the README's table is of."""

import json
import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.compare import machine
from tests.stress.figures import Figure

FILE = Path(__file__).parents[2] / "docs" / "scorecard.json"


def read() -> dict[str, Any]:
    """The figures of each run, by its name; nothing where none was made."""
    return json.loads(FILE.read_text()) if FILE.exists() else {}


def note(name: str, figures: list[Figure], seconds: float) -> None:
    """Put the figures of one run into the file, beside those of the others."""
    kept = read()
    kept[name] = {
        "machine": machine(),
        "versions": f"Linux {platform.release().split('-')[0]}, uvicorn {version('uvicorn')}",
        "seconds": round(seconds),
        "figures": [asdict(figure) for figure in figures],
    }
    FILE.write_text(json.dumps(dict(sorted(kept.items())), indent=2, ensure_ascii=False) + "\n")
