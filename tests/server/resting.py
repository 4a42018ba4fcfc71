"""The service, telling on SIGUSR1 what it has loaded; `python -m tests.server.resting`."""

import gc
import json
import signal
import sys

import torch  # noqa: F401 - what it loads by itself is not the service's doing

from service.__main__ import main

BY_TORCH = frozenset(sys.modules)


def tell(*_):
    added = set(sys.modules) - BY_TORCH
    told = {
        "packages": sorted(_packages(added) - _packages(BY_TORCH)),
        "torch": sorted(name for name in added if name.startswith("torch.")),
        "frozen": gc.get_freeze_count(),
        "collects": gc.isenabled(),
    }
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


def _packages(modules):
    return {name.partition(".")[0] for name in modules}


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, tell)
    main()
