"""Runs the commands of a page and writes what they print below them (make docs)."""

import re
import shutil
import subprocess
from pathlib import Path

from examples import demo

ROOT = Path(__file__).parents[1]
FILE = Path(__file__).with_name("saturation.md")
README = ROOT / "README.md"
PLACE = "127.0.0.1:8000"
PICTURES = Path(__file__).with_name("pictures")
# What a command draws for its reader is also what the page shows.
_DRAWN = re.compile(r"> (/tmp/(\w+\.svg))")
# A command, and what it prints where it prints anything.
_STEP = re.compile(r"```sh\n(?P<command>.*?)```(?:\n\n```text\n(?P<printed>.*?)```)?", re.DOTALL)


def steps(text: str) -> list[tuple[str, str | None]]:
    """Every command of a page, and what stands printed below it."""
    return [(found["command"], found["printed"]) for found in _STEP.finditer(text)]


def run(command: str, address: str) -> str:
    """What a command of the page prints, with the service at another address."""
    here = command.replace(PLACE, address.removeprefix("http://"))
    done = subprocess.run(["bash", "-ec", here], cwd=ROOT, capture_output=True, check=True)
    return done.stdout.decode()


def renewed(text: str, address: str) -> str:
    """The page with what its commands print today."""

    def renew(found: re.Match[str]) -> str:
        shown = f"```sh\n{found['command']}```"
        drawn = _DRAWN.search(found["command"])
        if found["printed"] is None and drawn is None:
            return shown
        printed = run(found["command"], address)
        if drawn is not None:
            shutil.copy(drawn[1], PICTURES / drawn[2])
        return shown if found["printed"] is None else f"{shown}\n\n```text\n{printed}```"

    return _STEP.sub(renew, text)


def main() -> None:
    """Write both pages anew."""
    with demo.service() as address:
        for page in (FILE, README):
            page.write_text(renewed(page.read_text(encoding="utf-8"), address), encoding="utf-8")


if __name__ == "__main__":
    main()
