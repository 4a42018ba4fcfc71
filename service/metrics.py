"""What is counted and measured, in Prometheus's form; labels have few values by construction."""

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector

OTHER = "other"
"""Stands for whatever is not on a list."""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_SIZES = (1, 2, 4, 8, 16, 32, 64)
Number = Callable[[], float]
DeviceMemory = Callable[[], Mapping[tuple[str, str], int]]
"""Bytes by device and state."""


class Metrics:
    """The measurements of one application; its methods may be called from any thread.

    Args:
        mechanisms: what computing time is told apart by.
        reasons: the types of problems.
    """

    def __init__(self, *, mechanisms: Iterable[str], reasons: Iterable[str]) -> None:
        self._registry = registry = CollectorRegistry()
        for kind in (ProcessCollector, PlatformCollector, GCCollector):
            kind(registry=registry)
        self._requests = Counter(
            "attention_requests_total",
            "Requests by the template of their route, method and status; 499: the caller left",
            ["route", "method", "status"],
            registry=registry,
        )
        self._seconds = Histogram(
            "attention_request_duration_seconds",
            "Time from a request's head to the end of its answer",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._queue_wait = Histogram(
            "attention_queue_wait_seconds",
            "Time that work waited for its device",
            buckets=_SECONDS,
            registry=registry,
        )
        self._batch_size = Histogram(
            "attention_batch_size", "Requests computed together", buckets=_SIZES, registry=registry
        )
        compute = Histogram(
            "attention_compute_seconds",
            "Time of a computation by mechanism; requests computed together share one",
            ["mechanism"],
            buckets=_SECONDS,
            registry=registry,
        )
        rejections = Counter(
            "attention_rejections_total",
            "Requests answered with a problem, by the last part of its type",
            ["reason"],
            registry=registry,
        )
        self._cancelled = Counter(
            "attention_cancelled_total",
            "Requests whose caller left before the answer was sent",
            registry=registry,
        )
        # Made at once: all series are there from the start, and there are no others.
        self._compute = {name: compute.labels(name) for name in (*mechanisms, OTHER)}
        self._rejections = {name: rejections.labels(name) for name in (*reasons, OTHER)}

    def request_ended(self, route: str, method: str, status: int, seconds: float) -> None:
        """A request was answered; `route` is the template of a path, never a path."""
        known = method if method in METHODS else OTHER
        self._requests.labels(route, known, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def rejected(self, reason: str) -> None:
        """A request was answered with a problem."""
        self._rejections.get(reason, self._rejections[OTHER]).inc()

    def cancelled(self) -> None:
        """A caller left before its answer was sent."""
        self._cancelled.inc()

    def queue_wait(self, seconds: float) -> None:
        """Work waited for its device."""
        self._queue_wait.observe(seconds)

    def batch(self, size: int) -> None:
        """So many requests were computed together."""
        self._batch_size.observe(size)

    def computed(self, mechanism: str, seconds: float) -> None:
        """A computation ended, well or not."""
        self._compute.get(mechanism, self._compute[OTHER]).observe(seconds)

    def gauges(
        self,
        *,
        queue_length: Number,
        places_taken: Number,
        in_flight_bytes: Number,
        device_memory: DeviceMemory,
    ) -> None:
        """What is read when it is asked for; called once."""
        gauges = {
            "attention_queue_length": ("Work that waits for a device", queue_length),
            "attention_places_taken": (
                "Requests being read, waiting, computed or written, of ATTENTION_MAX_QUEUE",
                places_taken,
            ),
            "attention_in_flight_bytes": (
                "Estimated memory of all requests being served, of ATTENTION_MAX_IN_FLIGHT_BYTES",
                in_flight_bytes,
            ),
        }
        for name, (meaning, read) in gauges.items():
            Gauge(name, meaning, registry=self._registry).set_function(read)
        self._registry.register(_Memory(device_memory))

    @property
    def described(self) -> list[tuple[str, str, str]]:
        """Name, kind and meaning of each of the service's own."""
        return [
            (f.name + ("_total" if f.type == "counter" else ""), f.type, f.documentation)
            for f in self._registry.collect()
            if f.name.startswith("attention_")
        ]

    def text(self, *, openmetrics: bool = False) -> bytes:
        """Everything, in the text format 0.0.4 or as OpenMetrics 1.0.0."""
        if openmetrics:
            told: bytes = generate_openmetrics(self._registry)  # type: ignore[no-untyped-call]
            return told
        return generate_latest(self._registry)


class _Memory(Collector):
    def __init__(self, read: DeviceMemory) -> None:
        self._read = read

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Devices come and go with what is computed, so the labels are read too."""
        family = GaugeMetricFamily(
            "attention_torch_memory_bytes",
            "Memory of torch's allocator on each GPU in use; on the CPU torch keeps no account: "
            "see process_resident_memory_bytes",
            labels=["device", "state"],
        )
        for labels, count in self._read().items():
            family.add_metric(labels, count)
        yield family
