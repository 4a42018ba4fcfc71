"""The long proofs: `python -m tests.stress [NAME …]` (make stress), all of them without a name."""

import argparse
import importlib
import sys
import time

from tests.stress.scorecard import note

RUNS = (
    "bodies",
    "schemas",
    "decoders",
    "estimates",
    "stalled",
    "vanishing",
    "endings",
    "rates",
    "soak",
)


def main() -> int:
    """Run them one after the other; 1 where something does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(RUNS))
    asked = parser.parse_args().names or RUNS
    failed = 0
    for name in asked:
        if name not in RUNS:
            parser.error(f"{name} is none of {', '.join(RUNS)}")
        print(f"{name} …", flush=True)
        began = time.monotonic()
        figures = importlib.import_module(f"tests.stress.{name}").run()
        note(name, figures, time.monotonic() - began)
        for figure in figures:
            failed += not figure.holds
            mark = "holds " if figure.holds else "FAILED"
            print(f"  {mark}  {figure.claim}: {figure.measured} ({figure.bound})", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
