"""schemathesis on every operation of the OpenAPI document, in this process, from a fixed seed."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import schemathesis
from schemathesis.engine import events, from_schema
from schemathesis.python.asgi import shutdown_lifespans

from service.app import create_app
from service.settings import Settings
from tests.proof.callers import Taking

# What is asked for at random must not take minutes; the bounds themselves are tested elsewhere.
SMALL = Settings(max_flops=10**9, max_elements=2**16, max_peak_bytes=2**28)
SEED = 20_250_607
REFUSED = ["400", "404", "405", "406", "413", "415", "422"]
PHASES = ("examples", "coverage", "fuzzing")
CONFIG: dict[str, Any] = {
    "seed": SEED,
    "continue-on-failure": True,
    # No answer links to another operation.
    "phases": {"stateful": {"enabled": False}},
    "checks": {
        # Without the 5xx and 429 that are let pass unless told otherwise.
        "not_a_server_error": {"expected-statuses": ["2xx", "4xx"]},
        "negative_data_rejection": {"expected-statuses": REFUSED},
        # /problems/{slug}: a schema does not say which slugs there are.
        "positive_data_acceptance": {"expected-statuses": ["2xx", "404"]},
    },
    "operations": [
        {
            # Whether shapes fit together (422), what they cost (413) and whether bytes are a file
            # (400) no schema can say; `said_by_no_schema` looks at each of these refusals.
            "include-method": "POST",
            "checks": {
                "positive_data_acceptance": {"expected-statuses": ["2xx", "400", "413", "422"]}
            },
        }
    ],
}


@dataclass(slots=True)
class Report:
    """What was sent, what came back, and every check that failed."""

    document: dict[str, Any]
    checks: Counter[str] = field(default_factory=Counter)
    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    kinds: Counter[tuple[str, str]] = field(default_factory=Counter)
    phases: dict[str, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    @property
    def requests(self) -> int:
        """How many were sent."""
        return self.statuses.total()

    @property
    def operations(self) -> set[str]:
        """Method and path of each that is documented."""
        return {
            f"{method.upper()} {path}"
            for path, item in self.document["paths"].items()
            for method in item
        }


def conform(examples: int) -> Report:
    """Run every phase; so many random requests of each operation in the last one."""
    generation = {"database": "none", "no-shrink": True, "max-examples": examples}
    config = schemathesis.Config.from_dict({**CONFIG, "generation": generation})
    app = create_app(SMALL)
    report = Report(app.openapi())
    try:
        schema = schemathesis.openapi.from_asgi("/openapi.json", Taking(app), config=config)
        for event in from_schema(schema).execute():
            _note(report, event)
    finally:
        shutdown_lifespans()
    return report


def _note(report: Report, event: events.EngineEvent) -> None:
    if isinstance(event, events.NonFatalError):
        report.failures.append(f"{event.label}: {event.info.title}: {event.info.message}")
    elif isinstance(event, events.PhaseFinished):
        report.phases[event.phase.name.value] = event.status.value
    elif isinstance(event, events.ScenarioFinished):
        for case, interaction in event.recorder.interactions.items():
            _note_answer(report, event.label or "", interaction.response)
            checks = event.recorder.checks.get(case, [])
            report.checks.update(check.name for check in checks)
            report.failures += [f"{event.label}: {told}" for told in _failed(checks)]


def _note_answer(report: Report, label: str, response: Any) -> None:
    if response is None:
        report.failures.append(f"{label}: no answer")
        return
    report.statuses[label, response.status_code] += 1
    if response.status_code == 200:
        kind = response.headers["content-type"][0].partition(";")[0]
        report.kinds[label, kind] += 1


def _failed(checks: list[Any]) -> Iterator[str]:
    for check in checks:
        if (info := check.failure_info) is not None:
            yield f"{check.name}: {info.failure.title} {info.failure.message}\n{info.code_sample}"
