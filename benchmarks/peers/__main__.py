"""`python -m benchmarks.peers install [NAME...]` installs peers; `list` says which there are."""

import argparse

from benchmarks.serving.contenders import CONTENDERS
from benchmarks.serving.environments import NAMES, NotInstalled, install


def main() -> None:
    """Do what is asked, and say of each what became of it."""
    parser = argparse.ArgumentParser(prog="benchmarks.peers", description=__doc__)
    parser.add_argument("action", choices=("install", "list"))
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(NAMES)}; none: all")
    asked = parser.parse_args()
    if unknown := set(asked.names) - set(NAMES):
        parser.error(f"{', '.join(sorted(unknown))}: none of {', '.join(NAMES)}")
    if asked.action == "list":
        for peer in CONTENDERS:
            if peer.environment is not None:
                state = "installed" if peer.installed else "not installed"
                print(f"{peer.name}: {peer.title}; environment {peer.environment}, {state}")
        return
    for name in asked.names or NAMES:
        print(f"{name} …", end=" ", flush=True)
        try:
            install(name)
        except NotInstalled as error:
            print(f"not installed: {error}")
        else:
            print("installed")


if __name__ == "__main__":
    main()
