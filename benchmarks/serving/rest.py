"""What a server costs before the first request: seconds to readiness, memory when idle."""

import subprocess
import time
from dataclasses import dataclass, field
from time import perf_counter

from benchmarks.serving.contenders import Contender
from benchmarks.serving.process import running

_SETTLED_S = 1.0


@dataclass(slots=True)
class Rest:
    """One contender's figures, one entry a round."""

    start_s: list[float] = field(default_factory=list)
    memory_mib: list[float] = field(default_factory=list)
    import_s: list[float] = field(default_factory=list)


def rest(contenders: list[Contender], count: int) -> dict[str, Rest]:
    """Each alone, in turn, with `import torch` in its own environment right before it."""
    found = {contender.name: Rest() for contender in contenders}
    for _ in range(count):
        for contender in contenders:
            figures = found[contender.name]
            figures.import_s.append(_import_torch(contender))
            with running(contender) as process:
                figures.start_s.append(process.start_s)
                time.sleep(_SETTLED_S)
                figures.memory_mib.append(process.memory_mib())
    return found


def _import_torch(contender: Contender) -> float:
    began = perf_counter()
    subprocess.run([str(contender.python), "-c", "import torch"], check=True, capture_output=True)
    return perf_counter() - began
