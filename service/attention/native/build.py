"""`python -m service.attention.native.build`: compile the pass, where there is a C++ compiler.

Nothing is compiled where the library is already the one of these sources. It needs no headers and
no libraries of torch (the products' addresses are handed to it), so that one file serves whatever
torch is installed, and carries a pass for each instruction set: the one of the machine it runs on
is chosen when it is loaded.
"""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from service.attention.native.sources import HERE, LIBRARY, fingerprint

_FLAGS = [
    *("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden"),
    *("-Wall", "-Wextra", "-Wno-psabi", "-Wno-maybe-uninitialized"),
    *("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-ffp-contract=fast"),
]
_X86 = {
    "avx512": "-mavx512f -mavx512dq -mavx512bw -mavx512vl -mavx2 -mfma -mf16c",
    "avx2": "-mavx2 -mfma -mf16c",
}
_UNBUILT = (
    "no C++ compiler (set CXX, or install g++): the service runs its eager pass, which takes about "
    "three times as long"
)


def main() -> int:
    """Build, unless that is done or cannot be; the exit status."""
    compiler = _compiler()
    if _built():
        return 0
    if compiler is None:
        sys.stdout.write(f"native pass: {_UNBUILT}\n")
        return 0
    try:
        build(compiler)
    except subprocess.CalledProcessError as error:
        sys.stderr.write(f"native pass: {compiler} failed; the service runs its eager pass\n")
        sys.stderr.write(str(error.stderr))
        return 1
    sys.stdout.write(f"native pass: built by {compiler}\n")
    return 0


def build(compiler: str) -> None:
    """Compile and link into `LIBRARY`.

    Raises:
        subprocess.CalledProcessError: the compiler found fault.
    """
    variants = {"baseline": ""}
    if platform.machine().lower() in ("x86_64", "amd64"):
        variants |= _X86
    with TemporaryDirectory() as folder:
        objects = [
            Path(folder, f"{name}.o") for name in (*variants, "products", "characters", "library")
        ]
        commands = [
            [
                *(f"-DINSTRUCTION_SET=with_{name}", f"-DSUMMARY=summary_{name}"),
                f"-DARRAYS=arrays_{name}",
                *flags.split(),
                *("-c", str(HERE / "variant.cpp")),
            ]
            for name, flags in variants.items()
        ]
        commands += [["-c", str(HERE / f"{name}.cpp")] for name in ("products", "characters")]
        commands.append([f'-DSOURCES="{fingerprint()}"', "-c", str(HERE / "library.cpp")])
        _all_at_once(
            [
                [compiler, *_FLAGS, *command, "-o", str(file)]
                for command, file in zip(commands, objects, strict=True)
            ]
        )
        linked = Path(folder, "pass.so")
        _all_at_once([[compiler, "-shared", "-o", str(linked), *map(str, objects)]])
        # Whole or not at all: a service may be loading it.
        beside = LIBRARY.with_suffix(f".{os.getpid()}")
        shutil.copyfile(linked, beside)
        beside.replace(LIBRARY)


def _all_at_once(commands: Sequence[Sequence[str]]) -> None:
    started = [subprocess.Popen(c, stderr=subprocess.PIPE, text=True) for c in commands]  # noqa: S603
    told = [process.communicate()[1] for process in started]
    for command, process, said in zip(commands, started, told, strict=True):
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command, stderr=said)


def _built() -> bool:
    return LIBRARY.is_file() and fingerprint().encode() in LIBRARY.read_bytes()


def _compiler() -> str | None:
    named = os.environ.get("CXX")
    candidates = [named] if named else ["g++", "clang++", "c++"]
    return next((name for name in candidates if shutil.which(name)), None)


if __name__ == "__main__":
    sys.exit(main())
