"""Runs a program and says what it said when it fails."""

import subprocess
from collections.abc import Mapping, Sequence

_TOLD = 12


class Failed(subprocess.SubprocessError):
    """A program ended with an error; the message is the end of what it printed.

    Attributes:
        last: the last line of that.
    """

    def __init__(self, message: str, said: Sequence[str] = ()) -> None:
        super().__init__("\n".join([message, *said]) if said else message)
        self.last = (said or [message])[-1].strip()


def run(
    command: Sequence[str],
    *,
    timeout_s: float = 60,
    given: str | None = None,
    environment: Mapping[str, str] | None = None,
    merged: bool = False,
) -> str:
    """What a program prints.

    Args:
        command: the program and its arguments.
        timeout_s: how long it may take.
        given: its standard input.
        environment: its whole environment, where it is not this process's.
        merged: whether what it prints to standard error is part of that.

    Raises:
        Failed: it ended with an error.
    """
    done = subprocess.run(
        command,
        input=given,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if merged else subprocess.PIPE,
        text=True,
        errors="replace",
        timeout=timeout_s,
        check=False,
        env=environment,
        stdin=subprocess.DEVNULL if given is None else None,
    )
    if done.returncode:
        said = ((done.stderr or "").strip() or done.stdout.strip()).splitlines()[-_TOLD:]
        raise Failed(f"{command[0]} ended with {done.returncode}:", said)
    return done.stdout
