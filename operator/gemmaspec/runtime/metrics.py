"""The operator's own metrics, for Prometheus. Those of resources are in :mod:`gemmaspec.runtime.board`."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.registry import Collector

from gemmaspec import __version__
from gemmaspec.adapters.cluster import COLLECTIONS

BUILD = Gauge("gemmaspec_build_info", "1; version of the operator.", ["version"])
BUILD.labels(__version__).set(1)
PASSES = Counter(
    "gemmaspec_reconcile", "Passes over resources, by how they ended: done, stale, api or bug.", ["result"]
)
PASS_SECONDS = Histogram(
    "gemmaspec_reconcile_duration_seconds",
    "Time of one pass over one resource.",
    buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 15),
)
QUEUE = Gauge("gemmaspec_queue_depth", "Resources that wait for a pass.")
WRITES = Counter("gemmaspec_api_writes", "Writes to the Kubernetes API, by kind of object.", ["kind"])
API_ERRORS = Counter(
    "gemmaspec_api_errors", "Requests that the Kubernetes API did not serve, by HTTP status (0: no answer).", ["status"]
)
SCRAPE_ERRORS = Counter("gemmaspec_scrape_errors", "Requests to engines and their agents that failed.")
WARM_UPS = Counter(
    "gemmaspec_warm_up_requests",
    "Requests of the operator's own to idle engines, by result: counted, mixed with others', refused, failed, or not "
    "sent since the engine was busy.",
    ["result"],
)
# Shown as 0 from the beginning: a counter that begins at 1 has no increase that a query could see.
for result in ("done", "stale", "api", "bug"):
    PASSES.labels(result)
for result in ("counted", "mixed", "refused", "failed", "busy"):
    WARM_UPS.labels(result)
for code in ("0", "429", "500", "503"):
    API_ERRORS.labels(code)
for kind in COLLECTIONS:
    WRITES.labels(kind)
# With their labels: a family without series does not tell them.
OWN: Mapping[Collector, tuple[str, ...]] = {
    BUILD: ("version",),
    PASSES: ("result",),
    PASS_SECONDS: (),
    QUEUE: (),
    WRITES: ("kind",),
    API_ERRORS: ("status",),
    SCRAPE_ERRORS: (),
    WARM_UPS: ("result",),
}


def show(collector: Collector, registry: CollectorRegistry = REGISTRY) -> None:
    """Add the families of ``collector`` to what Prometheus is told."""
    registry.register(collector)


def serve(port: int) -> None:
    """Serve /metrics on ``port``; 0 for none."""
    if port:
        start_http_server(port)
