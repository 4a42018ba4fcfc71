"""`python -m tests.image`: build the image, run it as compose would, report what was tried.

With docker where an engine answers, else with buildah and podman.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.image import engine as engines
from tests.image import namespaces
from tests.image.command import Failed

_PATIENCE_S = 90


def main() -> int:
    """Choose an engine, and start the session where nothing outlives it."""
    parser = argparse.ArgumentParser(prog="tests.image", description=__doc__)
    parser.add_argument("--engine", choices=[engines.DOCKER, engines.PODMAN])
    try:
        name = engines.chosen(parser.parse_args().engine)
        prefix = namespaces.prefix() if namespaces.wanted(name) else []
    except Failed as error:
        print(f"FAILED     {error}")
        return 1
    # Not /tmp, which is often in memory: the image and its layers are some gigabytes.
    where = os.environ.get("TMPDIR", "/var/tmp")
    try:
        with tempfile.TemporaryDirectory(prefix="attention-image-", dir=where) as place:
            try:
                return waited(prefix, [sys.executable, "-m", "tests.image.session", name, place])
            finally:
                engines.tidy(name, Path(place))
    finally:
        if prefix:  # last, because a group can be removed when its processes are gone
            namespaces.tidy_cgroups()


def waited(prefix: list[str], command: list[str]) -> int:
    """The exit code of a program that gets time to tidy up when it is interrupted."""
    with subprocess.Popen([*prefix, *command]) as process:
        # unshare passes no signal on; with it all that it started ends.
        end = process.kill if prefix else process.terminate
        signal.signal(signal.SIGTERM, lambda *_: end())
        try:
            return process.wait()
        except KeyboardInterrupt:  # the terminal's: the program has had it too
            try:
                return process.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                return 1


if __name__ == "__main__":
    sys.exit(main())
