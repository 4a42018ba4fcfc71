"""Which files the library is built from, and by what it is known that it was built from these."""

from hashlib import sha256
from pathlib import Path

HERE = Path(__file__).parent
LIBRARY = HERE / "pass.so"


def fingerprint() -> str:
    """Of the sources as they are now."""
    digest = sha256()
    for file in sorted([*HERE.glob("*.h"), *HERE.glob("*.cpp"), HERE / "build.py"]):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]
