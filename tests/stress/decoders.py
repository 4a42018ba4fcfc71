"""100,000 changed bodies through the decoders: nothing but the service's own errors escapes."""

import time

from tests.proof.decoding import decoded
from tests.proof.mutants import mutants
from tests.stress.figures import Figure

BODIES = 100_000
SEED = 20_250_608
SLOWEST_MS = 500
LARGEST_MIB = 64
"""Of interpreter and arrays together while one body is read; the originals have up to 1 KB."""


def run() -> list[Figure]:
    """A few minutes on one core."""
    began = time.monotonic()
    found = decoded(mutants(SEED, BODIES))
    for told in found.escaped[:10]:
        print(told)
    read = found.outcomes["read"]
    slowest_ms, largest_mib = 1e3 * found.slowest_s, found.most_bytes / 2**20
    print(f"slowest: {found.slowest}\nlargest: {found.most}\n{dict(found.outcomes)}")
    return [
        Figure(
            "mutated bodies through the decoders, an exception escaping",
            f"0 of {BODIES:,}",
            f"{len(found.escaped)} of {found.bodies:,}; {read:,} were still valid; "
            f"{time.monotonic() - began:.0f} s",
            not found.escaped and found.bodies == BODIES,
        ),
        Figure(
            "the slowest of them to be read or refused",
            f"{SLOWEST_MS} ms of the processor",
            f"{slowest_ms:.0f} ms",
            slowest_ms <= SLOWEST_MS,
        ),
        Figure(
            "the most memory that one of them took to be read or refused",
            f"{LARGEST_MIB} MiB",
            f"{largest_mib:.1f} MiB",
            largest_mib <= LARGEST_MIB,
        ),
    ]
