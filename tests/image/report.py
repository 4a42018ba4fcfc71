"""What was tried, what not and why: one line each, and a summary that decides the exit code."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

OK, FAILED, NOT_TRIED = "ok", "FAILED", "not tried"


class NotTried(Exception):
    """Raised inside a check: this machine cannot try it, and why."""


class Stopped(Exception):
    """Nothing that follows can be tried."""


@dataclass
class Line:
    """One line of the report; a check may add a detail to it."""

    outcome: str
    title: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.outcome:<11}{self.title}" + (f": {self.detail}" if self.detail else "")

    def short(self) -> str:
        """The first line of it."""
        return str(self).splitlines()[0]


@dataclass
class Report:
    """Collects the lines, printing each as it is known."""

    lines: list[Line] = field(default_factory=list)

    @contextmanager
    def check(self, title: str, *, needed: bool = False) -> Iterator[Line]:
        """The block is the check; what it raises is the outcome.

        Args:
            title: the sentence that the check proves.
            needed: whether nothing that follows makes sense without it.

        Raises:
            Stopped: where a needed check did not succeed.
        """
        line, began = Line(OK, title), time.monotonic()
        try:
            yield line
        except NotTried as reason:
            line.outcome, line.detail = NOT_TRIED, str(reason)
        except (
            AssertionError,
            LookupError,
            OSError,
            ValueError,
            httpx.HTTPError,
            subprocess.SubprocessError,
        ) as error:
            line.outcome, line.detail = FAILED, f"{error}" or repr(error)
        self._add(line, time.monotonic() - began)
        if needed and line.outcome != OK:
            raise Stopped(title)

    def not_tried(self, title: str, why: str) -> None:
        """Something that this machine cannot show."""
        self._add(Line(NOT_TRIED, title, why))

    def note(self, text: str) -> None:
        """A line that is no check."""
        print(f"{'':<11}{text}", flush=True)

    def _add(self, line: Line, seconds: float = 0.0) -> None:
        self.lines.append(line)
        print(f"{line}  ({seconds:.1f} s)" if seconds >= 1 else line, flush=True)

    def _with(self, outcome: str) -> list[Line]:
        return [line for line in self.lines if line.outcome == outcome]

    @property
    def exit_code(self) -> int:
        """0 where something was tried and nothing failed."""
        return 0 if self._with(OK) and not self._with(FAILED) else 1

    def summary(self) -> str:
        """What failed and what was not tried once more, and the counts."""
        again = [line.short() for line in self._with(FAILED) + self._with(NOT_TRIED)]
        counts = (f"{len(self._with(outcome))} {outcome}" for outcome in (OK, FAILED, NOT_TRIED))
        return "\n".join(["", *again, ", ".join(counts)])
